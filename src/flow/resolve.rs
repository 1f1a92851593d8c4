//! Resolves the name of an explicit request once, judges every answer, and dials only those that are
//! permitted (docs/policy.md §3).

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::authority::Target;
use super::evaluate::{
    NameEvidence, Subject, evaluate_cached, now_ms, over_limit, refused_by_name,
};
use super::refuse::Rejection;
use super::session::Session;
use crate::account::{Decision, End};
use crate::egress::connect::{DialFault, connect};
use crate::egress::name_binding::Unresolved;
use crate::identify::{Host, NameSource, Protocol};
use crate::net::socket::TcpSocket;
use crate::policy::{Permit, Verdict};

/// Head start of an address over the next one (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);

/// Addresses of one name that are judged and dialled at most.
const TRIED_MAX: usize = 16;

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
    let (addresses, name) = match request.target.host {
        Host::Address(address) => (vec![address], None),
        Host::Name(name) => {
            let name = Some((name, request.source));
            let nowhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, request.target.port));
            let (protocol, evidence) = (request.protocol, NameEvidence::Resolved);
            let unread = Subject::unread(client, nowhere);
            let subject = Subject { protocol, name, evidence, ..unread };
            (resolved(&subject, session).await?, name)
        }
    };
    let subject = addresses.into_iter().map(|address| Subject {
        protocol: request.protocol,
        name,
        // Of an address alone, a name inside the tunnel is heard only after the dial.
        evidence: if name.is_some() {
            NameEvidence::Resolved
        } else {
            NameEvidence::ClaimedAfterDial
        },
        ..Subject::unread(client, SocketAddr::new(address, request.target.port))
    });
    let turn = session.worker.registry.turn();
    let mut permitted = permitted(subject.collect(), session)?;
    let permits = permitted.iter_mut().take(TRIED_MAX).filter_map(|one| one.permit.take());
    let permits = permits.collect();
    let (index, upstream) = dial_in_order(permits, session).await?;
    if index >= permitted.len() {
        return Err(ConnectError::Unresolved);
    }
    let Permitted { subject, judged, .. } = permitted.swap_remove(index);
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
    let found = async {
        let addresses = resolved(&subject, session).await?;
        let all = addresses.into_iter().map(|address| {
            let destination = SocketAddr::new(address, subject.destination.port());
            Subject { destination, ..subject.clone() }
        });
        let mut permitted = permitted(all.collect(), session)?;
        permitted.iter_mut().find_map(|one| one.permit.take()).ok_or(ConnectError::Unresolved)
    };
    found.await.map_err(|missed| match missed {
        ConnectError::Stopped(stop) => stop,
        ConnectError::Unresolved | ConnectError::Unanswered | ConnectError::Undialled(_) => {
            Rejection::Ended(End::DnsError)
        }
    })
}

/// The name's addresses, where some address of it might pass: the query for a name that none can
/// save never leaves. `subject` holds the name, and its port under `::`.
async fn resolved(subject: &Subject, session: &mut Session) -> Result<Vec<IpAddr>, ConnectError> {
    let Ok(policy) = session.worker.live.load(now_ms()) else {
        return Err(ConnectError::Stopped(session.refused(Verdict::overload(subject.destination))));
    };
    if let Some(answer) = refused_by_name(&policy, subject, session.record.metrics()) {
        let noted = session.note(&policy, subject.clone(), answer);
        return noted.map(|_| Vec::new()).map_err(ConnectError::Stopped);
    }
    let Some((name, source)) = &subject.name else { return Err(ConnectError::Unresolved) };
    session.record.asks_about(*name, *source);
    match session.worker.names.resolve(name, subject.client).await {
        Ok(addresses) => Ok(addresses),
        Err(Unresolved::NoAddress) => Err(ConnectError::Unresolved),
        Err(Unresolved::NoAnswer) => Err(ConnectError::Unanswered),
        Err(Unresolved::OverLimit) => {
            let answer = over_limit(subject, session.record.metrics());
            let noted = session.note(&policy, subject.clone(), answer);
            noted.map(|_| Vec::new()).map_err(ConnectError::Stopped)
        }
    }
}

/// An address that may be dialled.
struct Permitted {
    subject: Subject,
    judged: Decision,
    permit: Option<Permit>,
}

/// Judges every address by one policy, and notes the first permitted one, or the first refusal.
/// Never waits: the names were resolved here, so that no address needs a query.
fn permitted(all: Vec<Subject>, session: &mut Session) -> Result<Vec<Permitted>, ConnectError> {
    let first = all.first().map(|subject| subject.destination).ok_or(ConnectError::Unresolved)?;
    let Ok(policy) = session.worker.live.load(now_ms()) else {
        return Err(ConnectError::Stopped(session.refused(Verdict::overload(first))));
    };
    let mut permitted = Vec::new();
    let mut noted = None;
    for subject in all {
        let Some(answer) = evaluate_cached(&policy, &subject, session.record.metrics()) else {
            continue;
        };
        match answer.verdict.permit() {
            Ok(permit) => {
                let judged = answer.judged(&policy, &subject);
                if permitted.is_empty() {
                    noted = Some((subject.clone(), answer));
                }
                permitted.push(Permitted { subject, judged, permit: Some(permit) });
            }
            Err(_) if noted.is_none() => noted = Some((subject, answer)),
            Err(_) => {}
        }
    }
    let (subject, answer) = noted.ok_or(ConnectError::Unresolved)?;
    let verdict = session.note(&policy, subject, answer);
    verdict.map(|_| permitted).map_err(ConnectError::Stopped)
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
