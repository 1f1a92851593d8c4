//! Resolves the name of an explicit request once, judges every answer, and dials only those that are
//! permitted (docs/policy.md §3).

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::authority::Target;
use super::evaluate::{
    Answer, NameEvidence, Subject, evaluate_cached, now_ms, over_limit, refused_by_name,
};
use super::refuse::Rejection;
use super::session::Session;
use crate::account::{Decision, End};
use crate::egress::connect::{DialFault, connect};
use crate::egress::name_binding::Unresolved;
use crate::egress::permitted::{NotPermitted, resolve_and_judge};
use crate::identify::{Host, NameSource, Protocol};
use crate::net::socket::TcpSocket;
use crate::policy::{Permit, Policy, Verdict};

/// Head start of an address over the next one (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);

/// A connected destination, and what was asked of the policy to reach it.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) upstream: TcpSocket,
    pub(super) subject: Subject,
}

/// Why a destination was not reached.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// The policy refused every address.
    Stopped(Rejection),
    /// The name has no address.
    Unresolved,
    /// The resolver did not answer, or there is none.
    Unanswered,
    /// No permitted address could be connected to.
    Undialled(DialFault),
}

impl ConnectError {
    /// The end of the record.
    pub(super) const fn end(&self) -> End {
        match self {
            Self::Stopped(Rejection::Refused(_)) => End::Refused,
            Self::Stopped(Rejection::Ended(end)) => *end,
            Self::Unresolved | Self::Unanswered => End::DnsError,
            Self::Undialled(fault) => fault.end(),
        }
    }
}

/// Who wants to reach something, and how.
pub(super) struct Request {
    pub(super) target: Target,
    /// What the request is known to speak.
    pub(super) protocol: Protocol,
    pub(super) source: NameSource,
}

/// Resolves, judges every address, dials the permitted ones in order. The verdict in the record is
/// that of the address that was connected to, or the first one's.
pub(super) async fn resolve_and_dial(
    request: &Request,
    session: &mut Session,
) -> Result<Connected, ConnectError> {
    let client = session.record.client().ip();
    let (address, name, evidence) = match request.target.host {
        // A name inside the tunnel is heard only after the dial.
        Host::Address(address) => (address, None, NameEvidence::ClaimedAfterDial),
        Host::Name(name) => {
            let name = Some((name, request.source));
            (Ipv6Addr::UNSPECIFIED.into(), name, NameEvidence::Resolved)
        }
    };
    let unread = Subject::unread(client, SocketAddr::new(address, request.target.port));
    let subject = Subject { protocol: request.protocol, name, evidence, ..unread };
    let turn = session.worker.registry.turn();
    let (permits, mut permitted): (Vec<_>, Vec<_>) =
        judged(&subject, session).await?.into_iter().unzip();
    let (index, upstream) = dial_in_order(permits, session).await?;
    if index >= permitted.len() {
        return Err(ConnectError::Unresolved);
    }
    let (subject, judged) = permitted.swap_remove(index);
    if session.worker.registry.turn() == turn {
        session.record.judged(judged);
        session.registration.judged(&subject, &session.record);
    } else {
        // The policy changed meanwhile, and judged only the address that was noted first.
        let permit = session.admit(subject.clone()).await;
        permit.map(drop).map_err(ConnectError::Stopped)?;
    }
    Ok(Connected { upstream, subject })
}

/// The first address of a name that the policy permits, for what has no connect to race: a UDP flow.
/// `subject` holds the name, and its port under `::`.
///
/// # Errors
/// As the refusal of an explicit request; a name that has no address ends as `dns-error`.
pub(super) async fn resolve_and_evaluate(
    subject: Subject,
    session: &mut Session,
) -> Result<Permit, Rejection> {
    let first = judged(&subject, session).await.and_then(|permitted| {
        permitted.into_iter().next().map(|(permit, _)| permit).ok_or(ConnectError::Unresolved)
    });
    first.map_err(|missed| match missed {
        ConnectError::Stopped(stop) => stop,
        ConnectError::Unresolved | ConnectError::Unanswered | ConnectError::Undialled(_) => {
            Rejection::Ended(End::DnsError)
        }
    })
}

/// An address that may be dialled, and what the record says of it then.
type Permitted = (Permit, (Subject, Decision));

/// The permitted addresses of the name that `subject` holds beside its port, else of its address; the
/// first of them is noted, or the refusal. No address needs a query of its own: the name is resolved
/// here.
async fn judged(subject: &Subject, session: &mut Session) -> Result<Vec<Permitted>, ConnectError> {
    let at = |ip| SocketAddr::new(ip, subject.destination.port());
    let (worker, record) = (&session.worker, &mut session.record);
    let metrics = worker.account.metrics();
    let resolve = async {
        let Some((name, source)) = subject.name else { return Ok(vec![subject.destination.ip()]) };
        record.asks_about(name, source);
        worker.names.resolve(&name, subject.client).await
    };
    let found = resolve_and_judge(
        || worker.live.load(now_ms()),
        |policy| Some((subject.clone(), refused_by_name(policy, subject, metrics)?)),
        resolve,
        |policy, ip| {
            let subject = Subject { destination: at(ip), ..subject.clone() };
            let answer = evaluate_cached(policy, &subject, metrics)?;
            Some((answer.verdict, (subject, answer)))
        },
    );
    let (policy, (refused, answer)) = match found.await {
        Ok(found) => return noted(&found.policy, found.addresses, session),
        Err(NotPermitted::Refused(policy, refusal)) => (policy, refusal),
        Err(NotPermitted::Unresolved(policy, Unresolved::OverLimit)) => {
            (policy, (subject.clone(), over_limit(subject, metrics)))
        }
        Err(NotPermitted::Lapsed(ip)) => {
            let destination = ip.map_or(subject.destination, at);
            return Err(ConnectError::Stopped(session.refused(Verdict::overload(destination))));
        }
        Err(NotPermitted::Unresolved(_, Unresolved::NoAnswer)) => {
            return Err(ConnectError::Unanswered);
        }
        Err(NotPermitted::Unresolved(_, Unresolved::NoAddress) | NotPermitted::NoAddress) => {
            return Err(ConnectError::Unresolved);
        }
    };
    let refused = session.note(&policy, refused, answer);
    refused.map(|_| Vec::new()).map_err(ConnectError::Stopped)
}

/// Notes the first address, by which all stand in the record until one is connected to.
fn noted(
    policy: &Policy,
    addresses: Vec<(Permit, (Subject, Answer))>,
    session: &mut Session,
) -> Result<Vec<Permitted>, ConnectError> {
    let Some((_, (subject, answer))) = addresses.first() else {
        return Err(ConnectError::Unresolved);
    };
    session.note(policy, subject.clone(), *answer).map(drop).map_err(ConnectError::Stopped)?;
    let judged = addresses.into_iter().map(|(permit, (subject, answer))| {
        let judged = answer.judged(policy, &subject);
        (permit, (subject, judged))
    });
    Ok(judged.collect())
}

/// Connects to the first address that answers. Each has a head start over the next; one that fails
/// lets the next one go at once.
async fn dial_in_order(
    permits: Vec<Permit>,
    session: &mut Session,
) -> Result<(usize, TcpSocket), ConnectError> {
    let kept = session.record.forwarding().await;
    kept.map_err(|end| ConnectError::Stopped(Rejection::Ended(end)))?;
    let mut waiting = permits.into_iter().enumerate();
    let mut dialling = JoinSet::new();
    let mut last = None;
    loop {
        if let Some((index, permit)) = waiting.next() {
            let (listener, worker) = (Rc::clone(&session.listener), Rc::clone(&session.worker));
            let dialled = async move {
                let metrics = worker.account.metrics();
                (index, connect(&permit, &listener, false, None, metrics).await)
            };
            dialling.spawn_local(dialled);
        } else if dialling.is_empty() {
            return Err(last.map_or(ConnectError::Unresolved, ConnectError::Undialled));
        }
        let more = waiting.len() > 0;
        tokio::select! {
            Some(dialled) = dialling.join_next() => match dialled {
                Ok((index, Ok(upstream))) => return Ok((index, upstream)),
                Ok((_, Err(fault))) => last = Some(fault),
                Err(_) => last = Some(DialFault::Failed(io::Error::other("the dial was ended"))),
            },
            () = sleep(STAGGER), if more => {}
        }
    }
}
