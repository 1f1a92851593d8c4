//! What a worker's connections share, and the steps of the walk that need it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep};

use super::accept::Accepted;
use super::bind::Names;
use super::judge::{Answer, Asked, Tie, now_ms, settle, settle_at_once, settle_unasked, unread};
use super::origin;
use super::peek::{Ended, Seen};
use super::refuse::Notice;
use super::registry::{Again, Registry};
use super::seat::Seat;
use super::udp;
use super::wire::Wire;
use crate::account::{Account, End, Hello, Judged, Limit, Record};
use crate::identify::{Identity, Missing, Progress, Protocol, Step, each_name, identify_further};
use crate::policy::{Action, Denial, Live, Permit, Policy, Verdict};

/// Connections that are judged again between two chances for the others of the worker.
const TURN_SHARE: usize = 256;

/// How long a client that is refused whatever it says may be silent before it is told so: one that
/// speaks first has spoken by then, and is told in its own protocol.
const FIRST_BYTE: Duration = Duration::from_millis(300);

/// What a worker's connections share.
pub(super) struct Gate {
    pub(super) live: Arc<Live>,
    pub(super) account: Account,
    pub(super) names: Names,
    pub(super) registry: Rc<Registry>,
    /// The UDP flows of the worker's SOCKS5 clients.
    pub(super) associated: Rc<udp::Table>,
    /// The outer ports of UDP clients, over all workers.
    pub(super) ports: Arc<udp::Ports>,
    /// True from the moment at which no new requests are wanted.
    pub(super) stopping: watch::Sender<bool>,
}

/// Why a connection goes no further.
#[derive(Debug)]
pub(super) enum Stop {
    /// It is refused, and this is what the client is told.
    Refused(Box<Refusal>),
    /// It ended before, or without, a verdict.
    Ended(End),
}

/// How and what a refused client is told. The notice is made from a denial alone.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) protocol: Protocol,
    pub(super) notice: Notice,
}

/// What becomes of the first bytes of a client that was permitted without them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// They were judged, or say nothing that could be judged: they are read along at most.
    Settled,
    /// They are judged before they go on, whenever they come.
    Judged,
}

impl Stop {
    /// The refusal of a client that speaks `protocol`.
    pub(super) fn refused(protocol: Protocol, notice: Notice) -> Self {
        Self::Refused(Box::new(Refusal { protocol, notice }))
    }
}

impl Gate {
    /// Where a transparent client was going; what cannot be sent anywhere stops here.
    pub(super) fn origin(
        &self,
        client: &Accepted,
        record: &mut Record,
    ) -> Result<SocketAddr, Stop> {
        let door = &client.door;
        let origin = match origin::of(&client.wire, door.way, door.address) {
            Ok(origin) => origin,
            Err(origin::Fault::Loop(to)) => return Err(refused(Verdict::looped(to), record)),
            Err(fault @ origin::Fault::Unknown(_)) => {
                tracing::warn!(fault = &fault as &dyn std::error::Error, listener = %door.address,
                    "a connection that no rule of the firewall redirected");
                return Err(Stop::Ended(End::NoOrigin));
            }
        };
        record.bound_for(origin);
        if door.dialled.as_ref().is_some_and(|dialled| dialled.is_own(client.peer, origin)) {
            return Err(refused(Verdict::looped(origin), record));
        }
        if client.slot.is_none() {
            return Err(refused(Verdict::overload(origin), record));
        }
        Ok(origin)
    }

    /// The verdict that falls before a byte was read, noted, and what becomes of the first bytes; `None`
    /// where they must be waited for.
    pub(super) fn admit_unread(
        &self,
        asked: &Asked,
        seat: &Seat,
        record: &mut Record,
    ) -> Option<(Result<Permit, Stop>, First)> {
        let Ok(policy) = self.live.load(now_ms()) else {
            return Some((
                Err(refused(Verdict::overload(asked.destination), record)),
                First::Settled,
            ));
        };
        let (answer, first) = unread(&policy, asked, self.account.metrics())?;
        Some((self.note(&policy, asked.clone(), answer, seat, record), first))
    }

    /// The verdict on all that was read, noted.
    pub(super) async fn admit(
        &self,
        asked: Asked,
        seat: &Seat,
        record: &mut Record,
    ) -> Result<Permit, Stop> {
        loop {
            let turn = self.registry.turn();
            let Ok(policy) = self.live.load(now_ms()) else {
                return Err(refused(Verdict::overload(asked.destination), record));
            };
            let metrics = self.account.metrics();
            let answer = settle(&policy, &asked, &self.names, metrics).await;
            // A policy that came while the resolver was asked has to be asked as well: the turn
            // that it began did not find this connection among those with a verdict.
            if self.registry.turn() == turn {
                return self.note(&policy, asked, answer, seat, record);
            }
        }
    }

    /// Whether the policy would let this pass, as far as is known without a query.
    pub(super) fn permits(&self, asked: &Asked) -> bool {
        self.live.load(now_ms()).is_ok_and(|policy| {
            settle_at_once(&policy, asked, self.account.metrics())
                .is_some_and(|answer| answer.verdict.action() != Action::Block)
        })
    }

    /// What the policy in force says, as far as is known without a query; `None` where one would have
    /// to be made, or no policy is in force.
    pub(super) fn judged_at_once(&self, asked: &Asked) -> Option<Judged> {
        let policy = self.live.load(now_ms()).ok()?;
        let answer = settle_at_once(&policy, asked, self.account.metrics())?;
        Some(answer.judged(&policy, asked))
    }

    /// As [`Gate::judged_at_once`], where nobody waits for a query: a name that one would have to be made
    /// about is what the client claims. `None` where no policy is in force.
    pub(super) fn judged_unasked(&self, asked: &Asked) -> Option<Judged> {
        let policy = self.live.load(now_ms()).ok()?;
        let answer = settle_unasked(&policy, asked, self.account.metrics());
        Some(answer.judged(&policy, asked))
    }

    /// Notes an answer in the record and, where it permits, in the registry.
    pub(super) fn note(
        &self,
        policy: &Policy,
        mut asked: Asked,
        answer: Answer,
        seat: &Seat,
        record: &mut Record,
    ) -> Result<Permit, Stop> {
        let protocol = asked.protocol;
        record.judged(answer.judged(policy, &asked));
        match answer.verdict.permit() {
            Ok(permit) => {
                let to = permit.destination();
                // What was seen to belong to the name stays so while the connection lives: a name
                // that turns over its addresses takes none away from who is connected to one.
                asked.tie = match asked.tie {
                    Tie::Said | Tie::SaidAndDialled if answer.bound == Some(true) => Tie::Resolved,
                    Tie::Said if asked.destination == to => Tie::SaidAndDialled,
                    Tie::Said => Tie::Resolved,
                    tie @ (Tie::SaidAndDialled | Tie::Resolved) => tie,
                };
                asked.destination = to;
                seat.judged(&asked, record);
                Ok(permit)
            }
            Err(denial) => {
                let notice = Notice::of(denial, record, policy.contact());
                Err(Stop::refused(protocol, notice))
            }
        }
    }

    /// Reads until it is known who the connection is for, or that nobody can know.
    pub(super) async fn read(
        &self,
        client: &Accepted,
        seen: &mut Seen,
        asked: Asked,
        record: &Record,
    ) -> Result<Asked, Stop> {
        let deadline = Instant::now() + client.door.peek_timeout;
        let mut progress = Progress::default();
        loop {
            let ended = seen.ended();
            match identify_further(seen.bytes(), ended.is_some(), &mut progress) {
                Step::Done(identity) => {
                    record.metrics().hello(result(&identity, seen), record.age());
                    return Ok(asked.read(&identity, |see| each_name(seen.bytes(), see)));
                }
                // Whatever was read cannot be told; it is a connection without a name.
                Step::NeedMore(_) if ended.is_some() => return Ok(asked),
                Step::NeedMore(missing) => {
                    let read = read_until(missing, seen, &client.wire, deadline).await;
                    read.map_err(|_| Stop::Ended(End::ClientGone))?;
                }
            }
            match seen.ended() {
                Some(Ended::Closed) if seen.bytes().is_empty() => {
                    return Err(Stop::Ended(End::ClientGone));
                }
                Some(Ended::Limit) => record.metrics().limit_hit(Limit::FirstFlight),
                Some(Ended::Closed | Ended::Deadline) | None => {}
            }
        }
    }

    /// A refusal that fell without a byte still waits for the client's first ones, so that it can
    /// be told in its own protocol; a permit goes through.
    pub(super) async fn shaped(
        &self,
        verdict: Result<Permit, Stop>,
        client: &Accepted,
        seen: &mut Seen,
        asked: Asked,
        record: &mut Record,
    ) -> Result<Permit, Stop> {
        let mut refusal = match verdict {
            Err(Stop::Refused(refusal)) if !client.door.silent => refusal,
            settled => return settled,
        };
        // Whom nobody speaks to waits for the server, and is told at once. A client that is gone
        // meanwhile is refused all the same.
        let first = Instant::now() + client.door.peek_timeout.min(FIRST_BYTE);
        if seen.bytes().is_empty() && seen.more(&client.wire, Some(first)).await.is_err()
            || seen.bytes().is_empty()
        {
            return Err(Stop::Refused(refusal));
        }
        if let Ok(read) = self.read(client, seen, asked, record).await {
            label(record, &read);
            refusal.protocol = read.protocol;
        }
        Err(Stop::Refused(refusal))
    }

    /// Judges every live connection by the policy that is now in force, and ends those that it no
    /// longer permits, after the policy's grace.
    pub(super) async fn rejudge(self: &Rc<Self>) {
        for (done, flow) in self.registry.begin_turn().into_iter().enumerate() {
            if done % TURN_SHARE == TURN_SHARE - 1 {
                yield_now().await;
            }
            let asked = match flow.asked() {
                Some(Ok(asked)) => asked,
                Some(Err(_)) => {
                    flow.cut(End::PolicyChange, None);
                    continue;
                }
                None => continue,
            };
            let Ok(policy) = self.live.load(now_ms()) else {
                flow.cut(End::PolicyChange, None);
                continue;
            };
            match settle_at_once(&policy, &asked, self.account.metrics()) {
                Some(answer) if answer.verdict.action() != Action::Block => {}
                Some(answer) if policy.grace().is_zero() => {
                    flow.cut(End::PolicyChange, Some(answer.judged(&policy, &asked)));
                }
                // The resolver or the grace has to be waited for, each connection by itself, and
                // by one task however often the policy changes meanwhile.
                Some(_) | None => {
                    if let Some(flow) = flow.begin_again() {
                        spawn_local(Rc::clone(self).rejudge_one(flow));
                    }
                }
            }
        }
    }

    async fn rejudge_one(self: Rc<Self>, flow: Again) {
        let mut waited = false;
        loop {
            let turn = self.registry.turn();
            let (Ok(policy), Some(Ok(asked))) = (self.live.load(now_ms()), flow.asked()) else {
                return flow.cut(End::PolicyChange, None);
            };
            let answer = settle(&policy, &asked, &self.names, self.account.metrics()).await;
            if self.registry.turn() != turn {
                continue;
            }
            if answer.verdict.action() != Action::Block {
                return;
            }
            // What was permitted again within the grace goes on.
            if waited || policy.grace().is_zero() {
                return flow.cut(End::PolicyChange, Some(answer.judged(&policy, &asked)));
            }
            sleep(policy.grace()).await;
            waited = true;
        }
    }
}

/// Reads until `missing` has arrived, or there is a reason why no more will.
///
/// # Errors
/// The client broke the connection off.
pub(super) async fn read_until(
    missing: Missing,
    seen: &mut Seen,
    client: &Wire,
    deadline: Instant,
) -> io::Result<()> {
    loop {
        let before = seen.bytes().len();
        seen.more(client, Some(deadline)).await?;
        if seen.ended().is_some() || missing.has_come(seen.bytes(), before) {
            return Ok(());
        }
    }
}

/// Adds what was read to the record of a verdict that it could not change.
pub(super) fn label(record: &mut Record, read: &Asked) {
    let Some(judged) = record.judgement() else { return };
    let &Asked { protocol, name, ech, .. } = read;
    let (name, fault) = (name.map(Into::into), read.fault());
    record.replace(Judged { protocol, name, ech, fault, ..judged.clone() });
}

/// The refusal of a connection that no policy was asked about.
pub(super) fn refused(denial: Denial, record: &mut Record) -> Stop {
    record.judged(Judged::without_policy(*denial.verdict()));
    let notice = Notice::of(denial, record, None);
    Stop::refused(Protocol::Other, notice)
}

/// Closes a connection's record, with the verdict that ended it where that was a later one.
pub(super) fn close(mut record: Record, seat: &Seat, end: End) {
    if let Some(judged) = seat.last_judged() {
        record.replace(judged);
    }
    record.finish(end);
}

/// How a first flight is counted.
pub(super) fn result(identity: &Identity<'_>, seen: &Seen) -> Hello {
    match (identity.fault, identity.name, identity.protocol) {
        _ if seen.bytes().is_empty() => Hello::Silent,
        (Some(_), ..) => Hello::Malformed,
        (None, Some(_), _) => Hello::Named,
        (None, None, Protocol::Other) => Hello::Other,
        (None, None, Protocol::Tls | Protocol::Http | Protocol::Quic | Protocol::Dtls) => {
            Hello::Nameless
        }
    }
}
