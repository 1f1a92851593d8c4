//! Carries a connection whose destination was judged and dialled: of a captured client behind its first
//! request, or inside an explicit tunnel. Nothing of a client's first flight goes on before it was
//! read, and judged with what it says; and where the flight is a request, the next one is as well.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::account::{End, Hello};
use crate::egress::connect::connect;
use crate::flow::evaluate::{NameEvidence, Subject};
use crate::flow::first_flight::{Ended, FirstFlight, read_until, result};
use crate::flow::forward::Joined;
use crate::flow::hello_retry::{self, HelloRetryGuard};
use crate::flow::http::{self, Broken, Client, Done, Held, Next, Order, Upstream, Why};
use crate::flow::origin;
use crate::flow::refuse::{
    self, BAD_GATEWAY, BAD_REQUEST, FROM_A_PROGRAM, LATER, Purpose, Refusal, Rejection, TIMEOUT,
    UNAVAILABLE, Unserved,
};
use crate::flow::registry::Registration;
use crate::flow::relay;
use crate::flow::resolve::Connected;
use crate::flow::session::{Connection, Session, run_until};
use crate::identify::http::Form;
use crate::identify::{
    Fault, HostName, Identity, Progress, Protocol, Step, each_name, identify, identify_further,
};
use crate::net::socket::TcpSocket;
use crate::policy::Permit;

/// Serves a tunnel to its end, and closes its record. `held` is what the client sent before it was
/// told that the tunnel is open.
pub(super) async fn run(
    client: TcpSocket,
    held: Vec<u8>,
    reached: Connected,
    connection: &Connection,
    session: Session,
) {
    let Connected { upstream, subject } = reached;
    let client = Client::new(client, Held::with(held));
    let upstream = Upstream::new(upstream, subject.destination);
    Joint { client, upstream, subject }.walk(Stage::Opened(session), connection).await;
}

/// Serves a captured client, whose first bytes are a request that was judged, and permitted; or one that
/// was permitted without a byte, whose first bytes are judged before they go on.
pub(in crate::flow) async fn captured(joined: Joined, session: Session) {
    let is_open = joined.is_open();
    let Joined { client, upstream, first, slot, .. } = joined;
    let Session { worker, listener, record, .. } = &session;
    let judged = record.judgement().map(|judged| judged.verdict.destination());
    let (Some(to), Ok(origin)) = (judged, origin::of(&client, listener.mode, listener.address))
    else {
        // Both were known a moment ago.
        return session.close(End::IoError);
    };
    let unread = Subject::unread(record.client().ip(), origin);
    let (worker, listener) = (Rc::clone(worker), Rc::clone(listener));
    let connection = Connection { worker, listener, peer: record.client(), slot };
    let client = Client::new(client, Held::with(first.into()));
    let upstream = Upstream::new(upstream, to);
    let (subject, stage) = if is_open {
        // Dialled is what was judged, whatever its client calls it.
        let subject =
            Subject { destination: to, evidence: NameEvidence::ClaimedAfterDial, ..unread };
        (subject, Stage::Opened(session))
    } else {
        (unread, Stage::Judged(session))
    };
    Joint { client, upstream, subject }.walk(stage, &connection).await;
}

/// Looks at what a client says first whose destination was judged without a byte of it, and dialled: a
/// request is named in its record, and the next one read. Nothing else is kept waiting, and nothing
/// that the destination says first.
pub(in crate::flow) async fn listen(
    joined: &mut Joined,
    session: &mut Session,
) -> Result<(), Rejection> {
    let Joined { client, upstream, first, .. } = joined;
    let Session { listener, record, .. } = &*session;
    let Some(to) = record.judgement().map(|judged| judged.verdict.destination()) else {
        return Ok(());
    };
    client.idle_timer().set_timeout(listener.idle_timeout);
    let mut seen = FirstFlight::default();
    let mut deadline = None;
    let mut progress = Progress::default();
    loop {
        tokio::select! {
            biased;
            more = seen.more(client, deadline) => {
                more.map_err(|_| Rejection::Ended(End::ClientReset))?;
            }
            _ = upstream.readable() => break,
            () = http::silent(client) => return Err(Rejection::Ended(End::Idle)),
        }
        if !seen.bytes().first().is_some_and(u8::is_ascii_alphabetic) {
            break;
        }
        deadline = deadline.or_else(|| Some(Instant::now() + listener.peek_timeout));
        let ended = seen.ended().is_some();
        match identify_further(seen.bytes(), ended, &mut progress) {
            Step::Done(identity) if http::request(&identity).is_some() => {
                let evidence = NameEvidence::ClaimedAfterDial;
                let subject = Subject { evidence, ..Subject::unread(record.client().ip(), to) };
                let subject = subject.read(&identity, |see| each_name(seen.bytes(), see));
                *first = seen.into_bytes().into();
                return session.admit(subject).await.map(drop);
            }
            Step::NeedMore(_) if !ended => {}
            Step::Done(_) | Step::NeedMore(_) => break,
        }
    }
    *first = seen.into_bytes().into();
    Ok(())
}

/// Both sides of a connection.
struct Joint {
    client: Client,
    upstream: Upstream,
    /// What every flight of the client asks, beside what it says itself: where it was going, or whom
    /// its tunnel is for.
    subject: Subject,
}

/// What comes next on a connection.
enum Stage {
    /// Anything: either side may speak.
    Opened(Session),
    /// A request that was judged, at the front of what is held.
    Judged(Session),
    /// What comes behind a request.
    Between,
}

/// What an opened connection turns out to be.
enum Turn {
    /// A request, permitted, at the front of what was read.
    Request,
    /// The policy refuses it, and the client can be told.
    Refused(Box<Refusal>),
    /// It has ended.
    End(End),
}

impl Joint {
    async fn walk(self, mut stage: Stage, connection: &Connection) {
        // Each flight has a place of its own, which the policy may end; this is the connection's.
        let place = connection.register();
        let mut joint = self;
        loop {
            let next = match stage {
                Stage::Opened(session) => Box::pin(joint.opened(session)).await,
                Stage::Judged(session) => {
                    Box::pin(joint.requested(session, &place, connection)).await
                }
                Stage::Between => Box::pin(joint.between(&place, connection)).await,
            };
            match next {
                Some(next) => (joint, stage) = next,
                None => return,
            }
        }
    }

    /// Finds out what the connection carries, and carries it.
    async fn opened(self, mut session: Session) -> Option<(Self, Stage)> {
        let Self { client, mut upstream, subject } = self;
        let (socket, held) = client.into_socket().await;
        let mut seen = FirstFlight::with(held);
        let closed = session.closed();
        let opening = opening(&socket, &mut upstream, &subject, &mut seen, &mut session);
        let turn = run_until(closed, pin!(opening)).await;
        match turn.unwrap_or_else(Turn::End) {
            Turn::Request => {
                let client = Client::new(socket, Held::with(seen.into_bytes()));
                return Some((Self { client, upstream, subject }, Stage::Judged(session)));
            }
            Turn::Refused(refusal) => {
                let silent = session.listener.silent;
                session.close(End::Refused);
                drop(upstream);
                refuse::run(socket, seen.bytes(), *refusal, silent).await;
            }
            Turn::End(end) => {
                drop((socket, upstream));
                session.close(end);
            }
        }
        None
    }

    /// Passes a request on, and its answer back.
    async fn requested(
        self,
        session: Session,
        place: &Registration,
        connection: &Connection,
    ) -> Option<(Self, Stage)> {
        let Self { mut client, mut upstream, mut subject } = self;
        let bytes = client.held.bytes();
        let order = match identify(bytes, true) {
            Step::Done(identity) => http::request(&identity)
                .and_then(|head| Some(Order::captured(bytes.get(..head.len)?, &head))),
            Step::NeedMore(_) => None,
        };
        let Some(order) = order else {
            // What was judged as a request is one.
            session.close(End::IoError);
            return None;
        };
        client.held.used(order.length());
        let answered = {
            let last = *connection.worker.stopping.borrow();
            let closed = session.registration.either_closed(place);
            let (bytes, timeouts) = (session.record.bytes(), connection.listener.timeouts());
            http::run(&mut client, &mut upstream, &order, bytes, timeouts, last, closed).await
        };
        match answered {
            Ok(Done::Whole { client_stays, upstream_stays }) => {
                client.answered(session.into_record());
                if client_stays && upstream_stays {
                    return Some((Self { client, upstream, subject }, Stage::Between));
                }
                upstream.socket.end_in_order();
                drop(upstream);
                client.close(connection.listener.timeouts().half_closed).await;
            }
            Ok(Done::Switched { head }) => {
                subject = Subject {
                    evidence: NameEvidence::ClaimedAfterDial,
                    ..Subject::unread(session.record.client().ip(), upstream.at)
                };
                return switched(client, upstream, subject, &head, session, connection).await;
            }
            Err(broken) => {
                drop(upstream);
                give_up(client, broken, &order, session).await;
            }
        }
        None
    }

    /// Reads and judges what comes behind a request.
    async fn between(self, place: &Registration, connection: &Connection) -> Option<(Self, Stage)> {
        let Self { mut client, mut upstream, subject } = self;
        let Connection { worker, listener, .. } = connection;
        upstream.held.let_go();
        let (closed, stopping) = (place.closed(), worker.stopping.subscribe());
        match client.next(Some(&upstream), closed, stopping, listener.idle_timeout).await {
            Next::Bytes => {}
            Next::Over => {
                upstream.socket.end_in_order();
                drop(upstream);
                client.close(listener.timeouts().half_closed).await;
                return None;
            }
            Next::Cut(_) => return None,
        }
        let mut session = connection.begin();
        session.record.bound_for(subject.destination);
        let mut seen = FirstFlight::with(client.held.take());
        let flight = Flight {
            client: &client.socket,
            subject: subject.clone(),
            waits: false,
            behind_a_request: true,
        };
        let closed = session.registration.either_closed(place);
        let judged = run_until(closed, pin!(flight.judge(&mut seen, &mut session))).await;
        client.held = Held::with(seen.into_bytes());
        let passed = match judged.map_err(Rejection::Ended).flatten() {
            Ok(passed) => passed,
            Err(Rejection::Refused(refusal)) => {
                session.close(End::Refused);
                upstream.socket.end_in_order();
                drop(upstream);
                refused(client, *refusal, listener.silent).await;
                return None;
            }
            Err(Rejection::Ended(end)) => {
                session.close(end);
                return None;
            }
        };
        if let Some(permit) = passed.permit.filter(|permit| permit.destination() != upstream.at) {
            match dial_behind(&permit, &mut session).await {
                Ok(socket) => {
                    upstream.socket.end_in_order();
                    upstream = Upstream::new(socket, permit.destination());
                }
                Err(end) => {
                    session.close(end);
                    return None;
                }
            }
        }
        if let Err(end) = session.record.forwarding().await {
            session.close(end);
            return None;
        }
        if passed.is_request {
            return Some((Self { client, upstream, subject }, Stage::Judged(session)));
        }
        let (socket, held) = client.into_socket().await;
        let closed = session.registration.either_closed(place);
        let relayed = hello_retry::run(&socket, &upstream.socket, held, &mut session);
        let end = run_until(closed, pin!(relayed)).await.unwrap_or_else(|end| end);
        drop((socket, upstream));
        session.close(end);
        None
    }
}

/// Dials another destination for a client that has one already.
async fn dial_behind(permit: &Permit, session: &mut Session) -> Result<TcpSocket, End> {
    let Session { listener, record, .. } = session;
    let source = listener.source(record.client().ip());
    record.forwarding().await?;
    connect(permit, listener, true, source, record.metrics()).await.map_err(|fault| fault.end())
}

/// The destination goes over to another protocol: what follows is a flow without a name.
async fn switched(
    client: Client,
    upstream: Upstream,
    subject: Subject,
    head: &[u8],
    mut session: Session,
    connection: &Connection,
) -> Option<(Joint, Stage)> {
    if !connection.worker.permits(&subject)
        && let Err(Rejection::Refused(refusal)) = session.admit(subject.clone()).await
    {
        session.close(End::Refused);
        drop(upstream);
        refused(client, *refusal, connection.listener.silent).await;
        return None;
    }
    if client.say(head, session.record.bytes()).await.is_err() {
        session.close(End::ClientReset);
        return None;
    }
    client.answered(session.into_record());
    let mut session = connection.begin();
    session.record.bound_for(subject.destination);
    if let Err(end) = session.record.forwarding().await {
        session.close(end);
        return None;
    }
    Some((Joint { client, upstream, subject }, Stage::Opened(session)))
}

/// Tells a client that its request is refused.
async fn refused(client: Client, refusal: Refusal, silent: bool) {
    if silent {
        return client.close(Duration::ZERO).await;
    }
    let Refusal { protocol, notice } = refusal;
    if protocol == Protocol::Http && !client.held.bytes().starts_with(b"PRI ") {
        let answer = refuse::response(&notice, client.held.bytes());
        client.last(&answer).await;
    }
}

/// What the client of a request that is cut is told.
pub(super) const CLOSING: &str = "the connection was ended before the request was answered";

/// Ends a connection whose request has no whole answer.
pub(super) async fn give_up(client: Client, broken: Broken, order: &Order, session: Session) {
    let Broken { why, answered } = broken;
    let (end, told) = match why {
        // Who asked the gateway itself is told.
        Why::Cut(end) if order.is_explicit() => {
            (end, Some(Unserved(UNAVAILABLE, "connection_terminated", CLOSING)))
        }
        Why::Cut(end) => (end, None),
        Why::Idle => {
            let what = "the destination did not answer in time";
            (End::Idle, Some(Unserved(TIMEOUT, "http_response_timeout", what)))
        }
        Why::ClientGone => (End::ClientReset, None),
        Why::BadBody => {
            let what = "the body of the request is not in the chunks that its head promises";
            (End::BadRequest, Some(Unserved(BAD_REQUEST, "http_request_error", what)))
        }
        Why::NoAnswer { in_order } if !order.is_explicit() => {
            session.close(End::UpstreamReset);
            if in_order {
                client.close(Duration::ZERO).await;
            }
            return;
        }
        Why::NoAnswer { .. } => {
            let what = "the destination closed the connection and did not answer the request";
            (End::UpstreamReset, Some(Unserved(BAD_GATEWAY, "connection_terminated", what)))
        }
        Why::BadAnswer(what) => {
            (End::BadAnswer, Some(Unserved(BAD_GATEWAY, "http_protocol_error", what)))
        }
        Why::Short => (End::UpstreamReset, None),
    };
    let is_cut = matches!(why, Why::Cut(_) | Why::ClientGone);
    let what_to_do = if matches!(why, Why::BadBody) { FROM_A_PROGRAM } else { LATER };
    let asked = Purpose::of(&session.record);
    session.close(end);
    match told.filter(|_| !answered) {
        Some(unserved) => {
            client.last(&unserved.answer(asked, None, what_to_do, order.head())).await;
        }
        // What is cut short must not look whole.
        None if !is_cut => client.break_off().await,
        None => {}
    }
}

/// Reads what either side says first, and goes on as that asks for. Where the policy lets any
/// protocol pass, the destination may speak first.
async fn opening(
    client: &TcpSocket,
    upstream: &mut Upstream,
    subject: &Subject,
    seen: &mut FirstFlight,
    session: &mut Session,
) -> Turn {
    let bytes = Arc::clone(session.record.bytes());
    let timeouts = session.listener.timeouts();
    let server_may_speak =
        session.worker.permits(&Subject { protocol: Protocol::Other, ..subject.clone() });
    let said = upstream.held.take();
    let upstream = &upstream.socket;
    let flight =
        |waits| Flight { client, subject: subject.clone(), waits, behind_a_request: false };
    let has_spoken = !said.is_empty();
    if has_spoken && server_may_speak {
        if client.write_all(&said).await.is_err() {
            return Turn::End(End::ClientReset);
        }
        bytes.down(said.len());
    }
    let judged = if !server_may_speak {
        Some(flight(false).judge(seen, session).await)
    } else if has_spoken {
        None
    } else {
        client.idle_timer().set_timeout(timeouts.idle);
        tokio::select! {
            biased;
            judged = flight(true).judge(seen, session) => Some(judged),
            _ = upstream.readable() => None,
            () = http::silent(client) => return Turn::End(End::Idle),
        }
    };
    if let Some(judged) = judged {
        return match judged {
            Ok(passed) if passed.is_request && !has_spoken => Turn::Request,
            Ok(_) => {
                if !server_may_speak && has_spoken {
                    if client.write_all(&said).await.is_err() {
                        return Turn::End(End::ClientReset);
                    }
                    bytes.down(said.len());
                }
                let first = std::mem::take(seen).into_bytes();
                Turn::End(hello_retry::run(client, upstream, first, session).await)
            }
            Err(Rejection::Refused(refusal)) => Turn::Refused(refusal),
            Err(Rejection::Ended(end)) => Turn::End(end),
        };
    }
    let mut stop = None;
    let mut guard = None;
    let opening = Box::pin(async {
        let judged = Box::pin(flight(true).judge(seen, &mut *session)).await;
        let passed = judged.map_err(|stopped| match stopped {
            Rejection::Ended(end) => end,
            Rejection::Refused(refusal) => {
                stop = Some(refusal);
                End::Refused
            }
        })?;
        // No server of HTTP/1 speaks first, and what has gone back is no part of an answer: the
        // requests could not be told apart any more.
        if passed.is_request {
            return Err(End::BadRequest);
        }
        let first = std::mem::take(&mut *seen).into_bytes();
        let guard = guard.insert(HelloRetryGuard::default());
        guard.follow(client, upstream, first, &*session).await
    });
    let end = relay::run(client, upstream, opening, timeouts, &bytes).await;
    if let Some(guard) = guard {
        guard.note(session);
    }
    match stop {
        // Once the destination has spoken, an answer of ours would be a part of its own.
        Some(refusal) if bytes.totals().1 == 0 => Turn::Refused(refusal),
        Some(_) | None => Turn::End(end),
    }
}

/// The first bytes inside a tunnel, or behind a request.
struct Flight<'a> {
    client: &'a TcpSocket,
    subject: Subject,
    /// Whether the client may stay silent as long as it likes.
    waits: bool,
    /// The connection has carried requests, and nobody has switched it to anything else: what is no
    /// request breaks HTTP/1, whatever else it may look like.
    behind_a_request: bool,
}

impl Flight<'_> {
    /// Reads the first flight; `Ok` where the policy lets it pass.
    async fn judge(
        self,
        seen: &mut FirstFlight,
        session: &mut Session,
    ) -> Result<Passed, Rejection> {
        let gone = |_| Rejection::Ended(End::ClientReset);
        if self.waits && seen.bytes().is_empty() {
            seen.more(self.client, None).await.map_err(gone)?;
        }
        if seen.bytes().is_empty() && seen.ended() == Some(Ended::Closed) {
            return Ok(Passed { permit: None, is_request: false });
        }
        let deadline = Instant::now() + session.listener.peek_timeout;
        let mut progress = Progress::default();
        let inside = loop {
            match identify_further(seen.bytes(), seen.ended().is_some(), &mut progress) {
                Step::Done(identity) => break Inside::of(&identity, seen, &self.subject),
                // Whatever was read cannot be told: no name, and no protocol that carries one.
                Step::NeedMore(_) if seen.ended().is_some() => break Inside::untold(&self.subject),
                Step::NeedMore(missing) => {
                    read_until(missing, seen, self.client, deadline).await.map_err(gone)?;
                }
            }
        };
        let record = &mut session.record;
        record.metrics().hello(inside.hello, record.age());
        if let Some(other) = inside.other {
            record.heard_inside(other);
        }
        // The tunnel's own name stays; a tunnel to an address gets the name that was read inside,
        // as something that the client says.
        let name = self.subject.name.or(inside.read.name).filter(|_| !inside.is_nameless);
        let (evidence, mismatched) = (self.subject.evidence, inside.unreadable);
        let mut subject =
            Subject { name, evidence, inside: inside.other, mismatched, ..inside.read };
        if self.behind_a_request && !inside.is_request {
            subject = subject.breaking(Fault::NotARequest);
        }
        let permit = session.admit(subject).await?;
        Ok(Passed { permit: Some(permit), is_request: inside.is_request })
    }
}

/// A first flight that the policy lets pass.
struct Passed {
    /// `None` where the client said nothing.
    permit: Option<Permit>,
    /// It begins with a request that can be answered by itself.
    is_request: bool,
}

/// What the first flight says of itself.
struct Inside {
    /// The tunnel's question with what was read.
    read: Subject,
    hello: Hello,
    /// The host that a hello names, where it is not the tunnel's.
    other: Option<HostName>,
    /// A hello or a request that cannot be read, which might name anybody.
    unreadable: bool,
    /// Requests in frames, which may name anybody: a flow without a name, whoever the tunnel is for.
    is_nameless: bool,
    is_request: bool,
}

impl Inside {
    fn of(identity: &Identity<'_>, seen: &FirstFlight, tunnel: &Subject) -> Self {
        let read = tunnel.clone().read(identity, |see| each_name(seen.bytes(), see));
        let (other, unreadable) = match (&tunnel.name, identity.protocol) {
            (Some((host, _)), Protocol::Tls | Protocol::Http) => {
                let other = read.name.map(|(name, _)| name).filter(|name| name != host);
                let authority = identity.http.and_then(|head| head.authority);
                // Of an address in the place of the name nothing is known to belong to it.
                let is_elsewhere = authority.is_some_and(|authority| authority.name().is_none());
                (other, identity.fault.is_some() || is_elsewhere)
            }
            // What is not surely something else than TLS may still become a hello.
            (Some(_), Protocol::Quic | Protocol::Dtls | Protocol::Other) => {
                (None, identity.fault.is_some())
            }
            // A tunnel to an address has no name to differ from.
            (None, _) => (None, false),
        };
        let is_nameless = identity.http.is_some_and(|head| head.form == Form::Preface);
        let is_request = http::request(identity).is_some();
        let hello = result(identity, seen);
        Self { read, hello, other, unreadable, is_nameless, is_request }
    }

    fn untold(tunnel: &Subject) -> Self {
        let read = Subject { protocol: Protocol::Other, ech: false, ..tunnel.clone() };
        Self {
            read,
            hello: Hello::Other,
            other: None,
            unreadable: false,
            is_nameless: false,
            is_request: false,
        }
    }
}
