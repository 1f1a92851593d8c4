//! Walks a transparent connection from its origin to its relay: origin, first flight, verdict, dial,
//! relay or refusal. Each step is called once, from here.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use tokio::task::spawn_local;

use super::accept::Accepted;
use super::along;
use super::evaluate::{First, Subject};
use super::first_flight::{self, FirstFlight};
use super::forward::{self, Joined};
use super::hello_retry::{HelloRetryGuard, Opening};
use super::origin;
use super::proxy;
use super::refuse::{self, Rejection};
use super::relay;
use super::session::{Session, run_until};
use super::slots::Slot;
use super::starttls::{self, Preamble, StartTlsProtocol};
use super::worker::Worker;
use crate::account::End;
use crate::identify::{Identity, each_name};
use crate::net::socket::TcpSocket;
use crate::policy::{Permit, Verdict};
use crate::settings::ListenMode;

/// Serves one accepted connection to its end, in a task of its own.
pub(super) fn serve(client: Accepted, worker: Rc<Worker>) {
    // It ends by itself, and with the runtime at the latest.
    match client.listener.mode {
        ListenMode::Tproxy | ListenMode::Redirect => {
            drop(spawn_local(serve_transparent(client, worker)));
        }
        ListenMode::Proxy => drop(spawn_local(proxy::serve(client, worker))),
    }
}

pub(super) fn serve_transparent(client: Accepted, worker: Rc<Worker>) -> impl Future<Output = ()> {
    // Boxed: what only the judgement and the dial need does not last as long as the relay.
    let opened = Box::pin(open(client, worker));
    async move {
        // Made in its place: a connection has room for one of them.
        let relay = pin!(match opened.await {
            Some((joined, session)) => relayed(joined, session),
            None => return,
        });
        relay.await;
    }
}

/// Judges and dials; [`None`] where the connection ended with that, and its record is closed, or was
/// served request by request.
async fn open(client: Accepted, worker: Rc<Worker>) -> Option<(Joined, Session)> {
    let Accepted { socket, peer, listener, slot } = client;
    let mut session = Session::open(worker, listener, peer);
    let walked = run_until(session.closed(), pin!(walk(socket, slot, &mut session))).await;
    let end = match walked.flatten() {
        Ok(joined) if joined.is_open() => {
            Box::pin(proxy::captured(joined, session)).await;
            return None;
        }
        Ok(mut joined) => match listened(&mut joined, &mut session).await {
            Ok(()) if joined.is_request() => {
                Box::pin(proxy::captured(joined, session)).await;
                return None;
            }
            Ok(()) => return Some((joined, session)),
            Err(Rejection::Ended(end)) => end,
            Err(Rejection::Refused(refusal)) => {
                let Joined { client, first, .. } = joined;
                refuse::run(client, &first, *refusal, session.listener.silent).await
            }
        },
        Err(end) => end,
    };
    session.close(end);
    None
}

/// Where a transparent client was going; what cannot be sent anywhere stops here.
fn destination(client: &TcpSocket, session: &mut Session) -> Result<SocketAddr, Rejection> {
    let listener = &session.listener;
    let origin = match origin::of(client, listener.mode, listener.address) {
        Ok(origin) => origin,
        Err(origin::Fault::Loop(to)) => return Err(session.refused(Verdict::looped(to))),
        Err(fault @ origin::Fault::Unknown(_)) => {
            tracing::warn!(fault = &fault as &dyn std::error::Error, listener = %listener.address,
                "a connection that no rule of the firewall redirected");
            return Err(Rejection::Ended(End::NoOrigin));
        }
    };
    session.record.bound_for(origin);
    let client = session.record.client();
    if session.listener.dialled.as_ref().is_some_and(|dialled| dialled.is_own(client, origin)) {
        return Err(session.refused(Verdict::looped(origin)));
    }
    Ok(origin)
}

/// The verdict on where it was going, and on what it says where that is asked for.
async fn judge(
    client: &TcpSocket,
    seen: &mut FirstFlight,
    preamble: &mut Option<Preamble>,
    session: &mut Session,
) -> Result<(Permit, First), Rejection> {
    let origin = destination(client, session)?;
    let ip = session.record.client().ip();
    let mut is_heard = false;
    let admitted = session
        .admit_heard(Subject::unread(ip, origin), async |subject, session: &Session| {
            is_heard = true;
            let protocol =
                StartTlsProtocol::on(origin.port()).filter(|_| session.listener.starttls);
            let subject = match protocol {
                None => first_flight::read(client, seen, subject, session).await?,
                // Boxed: few connections are played for.
                Some(protocol) => {
                    let played = starttls::serve_preamble(
                        protocol, client, seen, preamble, subject, session,
                    );
                    Box::pin(played).await?
                }
            };
            // A client that was silent has had its time, and not its say.
            let is_silent = seen.bytes().is_empty() && preamble.is_none();
            Ok((subject, if is_silent { First::Judged } else { First::Settled }))
        })
        .await;
    match admitted {
        Err(Rejection::Refused(refusal)) if !is_heard => {
            let unread = Subject::unread(ip, origin);
            Err(first_flight::shaped(refusal, client, seen, unread, session).await)
        }
        admitted => admitted,
    }
}

async fn walk(client: TcpSocket, slot: Slot, session: &mut Session) -> Result<Joined, End> {
    let mut seen = FirstFlight::default();
    let mut preamble = None;
    let judged = judge(&client, &mut seen, &mut preamble, session).await;
    slot.heard();
    match judged {
        Ok((permit, first)) => {
            forward::run(client, slot, seen, first, preamble, permit, session).await
        }
        Err(Rejection::Refused(refusal)) => {
            Err(refuse::run(client, seen.bytes(), *refusal, session.listener.silent).await)
        }
        Err(Rejection::Ended(end)) => Err(end),
    }
}

/// Hears what the client says first, where its destination was judged without it.
async fn listened(joined: &mut Joined, session: &mut Session) -> Result<(), Rejection> {
    if !joined.is_read_along {
        return Ok(());
    }
    let closed = session.closed();
    let listened = Box::pin(proxy::listen(joined, session));
    run_until(closed, pin!(listened)).await.map_err(Rejection::Ended).flatten()
}

/// Replays what was read, relays until the end, and closes the record.
fn relayed(joined: Joined, mut session: Session) -> impl Future<Output = ()> {
    let Joined { client, upstream, first, is_read_along, slot, .. } = joined;
    // A block: a function would hold its arguments twice, for as long as the connection lives.
    async move {
        let (mut guard, mut read) = (HelloRetryGuard::default(), None);
        let Session { listener, record, .. } = &session;
        let opening = match record.judgement().filter(|_| is_read_along) {
            Some(judged) => {
                let subject = Subject::permitted(record.client().ip(), &judged.verdict);
                let learn = |identity: &Identity<'_>, seen: &[u8]| {
                    let subject = subject.read(identity, |see| each_name(seen, see));
                    let goes_on = session.learnt(&subject);
                    // Boxed: what was asked is large, and kept as long as the connection.
                    read = Some(Box::new(subject));
                    goes_on
                };
                let (bytes, time) = (record.bytes(), listener.peek_timeout);
                let along = along::read(&client, &upstream, first.into(), bytes, time, learn);
                Opening::Watched(Box::pin(along))
            }
            None => guard.follow(&client, &upstream, first.into(), &session),
        };
        // Made in its place: a connection has room for one of them.
        let end = tokio::select! {
            biased;
            end = session.closed() => end,
            end = relay::run(&client, &upstream, opening, listener.timeouts(), record.bytes()) => end,
        };
        guard.note(&mut session);
        if let Some(read) = read {
            session.label(&read);
        }
        session.record.reached_within(upstream.shortest_round_trip());
        drop((client, upstream, slot));
        session.close(end);
    }
}
