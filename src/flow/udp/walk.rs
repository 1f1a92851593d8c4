//! Walks one UDP flow from its first datagram to the end of its record: read, decide, relay or refuse.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;

use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};

use super::context::{UdpContext, UdpIngress};
use super::flight::{Flight, Need, may_carry_a_name};
use super::icmp::Error;
use super::ports::Unopened;
use super::refuse::{self, REFUSED_FOR};
use super::relay::{Ended, Fault, Pipe};
use super::table::{Key, Place, QueuedDatagram};
use crate::account::{Dropped, End, Hello, Limit, Record};
use crate::flow::evaluate::{NameEvidence, Subject};
use crate::flow::origin;
use crate::flow::refuse::Rejection;
use crate::flow::resolve;
use crate::flow::session::Session;
use crate::identify::{HostName, Identity, NameSource, Protocol};
use crate::policy::{Permit, Transport, Verdict};

/// What follows when the record of a flow is closed.
enum After {
    Nothing,
    /// The client is told, and for a while told again.
    Refused(Box<Flight>),
    /// What the client began anew with.
    Restart(Vec<QueuedDatagram>),
}

/// Serves one flow to its end, in a task of its own.
pub(super) fn serve(place: Place, context: Rc<UdpContext>) {
    // It ends by itself, and with the runtime at the latest.
    drop(spawn_local(run(place, context)));
}

async fn run(place: Place, context: Rc<UdpContext>) {
    let mut after = After::Nothing;
    {
        let (worker, listener) = (Rc::clone(&context.worker), Rc::clone(&context.listener));
        let client = listener.client.of(place.key().client);
        let mut session = Session::open(worker, listener, client);
        session.record.over_udp();
        let end = tokio::select! {
            biased;
            end = session.closed() => end,
            () = place.displaced() => End::Displaced,
            () = context.closed() => End::Done,
            end = walk(&place, &context, &mut session, &mut after) => end,
        };
        session.close(end);
    }
    match after {
        After::Nothing => {}
        After::Refused(flight) => linger(place, &context, flight).await,
        After::Restart(held) => restart(place, &context, &held),
    }
}

async fn walk(
    place: &Place,
    context: &Rc<UdpContext>,
    session: &mut Session,
    after: &mut After,
) -> End {
    let mut flight = Flight::default();
    // Boxed, so that what only the judgement needs does not last as long as the relay.
    let permit = match Box::pin(judge(place, context, &mut flight, session)).await {
        Ok(permit) => permit,
        Err(Rejection::Refused(_)) => {
            *after = After::Refused(Box::new(flight));
            return End::Refused;
        }
        Err(Rejection::Ended(end)) => return end,
    };
    let record = &mut session.record;
    if let Err(end) = record.forwarding().await {
        *after = After::Refused(Box::new(flight));
        return end;
    }
    let pipe = match Pipe::open(&permit, place.key(), context) {
        Ok(pipe) => pipe,
        Err(fault) => return unopened(&fault, place, context, &flight, record),
    };
    let bytes = Rc::new(record.bytes().clone());
    match pipe.run(place, &mut flight, context, &bytes).await {
        Ended::End(end) => end,
        Ended::Restart(held) => {
            *after = After::Restart(held);
            End::Restarted
        }
    }
}

/// Says why a permitted flow goes nowhere: to the client, who may then try another address, and in
/// the log.
fn unopened(
    fault: &Fault,
    place: &Place,
    context: &UdpContext,
    flight: &Flight,
    record: &Record,
) -> End {
    let (dropped, end) = match fault {
        Fault::Near(_) => (Dropped::NoReplyPath, End::ConnectFailed),
        Fault::Far(Unopened::Share) => (Dropped::ClientPorts, End::ConnectFailed),
        Fault::Far(Unopened::Exhausted) => (Dropped::NoPort, End::ConnectFailed),
        Fault::Far(Unopened::Failed(e)) if is_unreachable(e) => {
            refuse::tell(context, place.key(), Error::no_route(place.key()), flight.first_length());
            (Dropped::Unsent, End::ConnectUnreachable)
        }
        Fault::Far(Unopened::Failed(_)) => (Dropped::Unsent, End::ConnectFailed),
    };
    record.metrics().dropped(dropped);
    let ours = matches!(dropped, Dropped::NoReplyPath | Dropped::NoPort)
        || (dropped, end) == (Dropped::Unsent, End::ConnectFailed);
    // What a client brings about by itself fills no log; it is counted, and in the record.
    if ours {
        let fault = fault as &dyn std::error::Error;
        tracing::warn!(fault, listener = %context.listener.address, "a permitted UDP flow is dropped");
    }
    end
}

fn is_unreachable(fault: &io::Error) -> bool {
    [io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable].contains(&fault.kind())
}

async fn judge(
    place: &Place,
    context: &UdpContext,
    flight: &mut Flight,
    session: &mut Session,
) -> Result<Permit, Rejection> {
    let Key { client, to, .. } = place.key();
    let worker = &context.worker;
    // Whatever becomes of the flow, the datagram that began it is not met again.
    let first = place.next().await;
    match &context.ingress {
        UdpIngress::Listener { .. } if worker.ports.is_own(client, to) => {
            flight.first(first);
            flight.settle(worker.registry.turn());
            return Err(session.refused(Verdict::looped(to)));
        }
        UdpIngress::Listener { .. } => match origin::is_own(to, context.listener.address) {
            Ok(false) => {}
            Ok(true) => {
                flight.first(first);
                flight.settle(worker.registry.turn());
                return Err(session.refused(Verdict::looped(to)));
            }
            Err(_) => return Err(Rejection::Ended(End::NoOrigin)),
        },
        // Where that is the gateway itself, the policy says so.
        UdpIngress::Association(association) => {
            if let Some(named) = association.name_of(place.key()) {
                return judge_named(place, context, flight, session, first, named).await;
            }
        }
    }
    session.record.bound_for(to);
    let subject = Subject::unread(session.record.client().ip(), to).over(Transport::Udp);
    let turn = worker.registry.turn();
    if let Some((verdict, _)) = session.admit_unread(&subject) {
        flight.settle(turn);
        if verdict.is_ok() {
            flight.hold_unread(first);
        } else {
            // What it was is recorded, and shapes the refusal.
            flight.first(first);
            let read = subject.read(&flight.identity(), |see| flight.each_name(see));
            session.label(&read);
        }
        return verdict;
    }
    read(place, context, flight, first, &session.record).await;
    let subject = subject.read(&flight.identity(), |see| flight.each_name(see));
    flight.judged();
    session.admit(subject).await
}

/// Judges a flow whose client gave a name: by each address that the name has, as an explicit request
/// is, and by what the first datagrams say beside it.
async fn judge_named(
    place: &Place,
    context: &UdpContext,
    flight: &mut Flight,
    session: &mut Session,
    first: QueuedDatagram,
    (host, port): (HostName, u16),
) -> Result<Permit, Rejection> {
    read(place, context, flight, first, &session.record).await;
    let identity = flight.identity();
    let nowhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let subject = Subject::unread(session.record.client().ip(), nowhere);
    let subject = subject.over(Transport::Udp).read(&identity, |see| flight.each_name(see));
    // QUIC that cannot be opened might name anybody, and so might a hello that breaks its rules.
    let sealed = identity.protocol == Protocol::Quic && flight.initial().is_none();
    let unreadable = identity.fault.is_some() || sealed;
    let inside = subject.name.map(|(name, _)| name).filter(|name| *name != host);
    if let Some(inside) = inside {
        session.record.heard_inside(inside);
    }
    let name = Some((host, NameSource::Connect));
    flight.judged();
    let subject = Subject {
        name,
        evidence: NameEvidence::Resolved,
        inside,
        mismatched: unreadable,
        ..subject
    };
    resolve::resolve_and_evaluate(subject, session).await
}

/// Reads the first datagrams of a flow, as long as they look like a protocol that carries a name.
async fn read(
    place: &Place,
    context: &UdpContext,
    flight: &mut Flight,
    first: QueuedDatagram,
    record: &Record,
) {
    let deadline = Instant::now() + context.listener.peek_timeout;
    let mut need = flight.first(first);
    while need == Need::More {
        place.charge_reader(flight.reader_bytes());
        match timeout_at(deadline, place.next()).await {
            Ok(held) => need = flight.first(held),
            Err(_) => break,
        }
    }
    place.charge_reader(flight.excess());
    if need == Need::Full {
        record.metrics().limit_hit(Limit::FirstFlight);
    }
    record.metrics().hello(result(&flight.identity()), record.age());
}

/// A refused flow keeps its place for a moment, so that what its client repeats is answered without
/// a record of its own.
async fn linger(place: Place, context: &Rc<UdpContext>, mut flight: Box<Flight>) {
    let refused = flight.initial();
    let nameless = !flight.is_settled() && flight.identity().name.is_none();
    let until = Instant::now() + REFUSED_FOR;
    let mut length = flight.first_length();
    drop(flight.take());
    drop(flight);
    for answered in 0_u32.. {
        if answered < refuse::ANSWERS_MAX {
            refuse::answer(context, place.key(), refused, length);
        }
        let next = tokio::select! {
            () = place.displaced() => return,
            () = context.closed() => return,
            next = timeout_at(until, place.next()) => next,
        };
        let Ok(held) = next else { return };
        // Refused for want of a name, and here may be one: junk before a hello costs no connection.
        if nameless && may_carry_a_name(held.bytes()) {
            return restart(place, context, &[held]);
        }
        length = held.bytes().len();
    }
}

fn restart(place: Place, context: &Rc<UdpContext>, held: &[QueuedDatagram]) {
    let key = place.key();
    drop(place);
    for datagram in held {
        context.deliver(key, datagram.bytes());
    }
}

/// How a first flight is counted.
fn result(identity: &Identity<'_>) -> Hello {
    match (identity.fault, identity.name, identity.protocol) {
        (Some(_), ..) => Hello::Malformed,
        (None, Some(_), _) => Hello::Named,
        (None, None, Protocol::Other) => Hello::Other,
        (None, None, Protocol::Tls | Protocol::Http | Protocol::Quic | Protocol::Dtls) => {
            Hello::Nameless
        }
    }
}
