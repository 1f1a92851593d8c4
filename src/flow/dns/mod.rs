//! Serves `[dns] listen`, a forwarding name server. A name that the policy refuses is not asked about;
//! of the others the client is told the addresses that the policy permits, and what it is told ties the
//! name to them ([`crate::egress::name_binding`]).
//!
//! Served by one worker. The name servers that are asked are destinations: each is judged for the
//! client whose question it would get.

mod clients;
mod ledger;
mod message;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener, UdpSocket as StdSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use socket2::Protocol as Ip;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{sleep, timeout};

use super::accept::class;
use super::evaluate::{self, Answer, NameEvidence, Subject, now_ms};
use super::udp::send_from;
use super::worker::Worker;
use crate::account::{Accept, Decision, DnsQuery, End, Ingress};
use crate::egress::{Resolver, framed};
use crate::identify::{HostName, NameSource, Protocol};
use crate::net::bind::{Sharing, bind};
use crate::policy::{Action, Policy, Transport, Verdict};
use crate::settings::Dns;
use crate::settings::Resolver as Server;
use crate::sys::udp::{self, RecvBatch};
use clients::{Clients, Places};
use ledger::Ledger;
use message::{Asking, BLOCKED, PROHIBITED, Sifted, Unread, sift};

/// Queries that wait for a name server at once.
const IN_FLIGHT_MAX: usize = 1024;

/// Clients over TCP at once, and how long one of them may be silent (RFC 7766 §6.2.3).
const STREAMS_MAX: usize = 128;
const STREAM_IDLE: Duration = Duration::from_secs(10);

/// Wait after the listener failed for want of memory or descriptors.
const PAUSE: Duration = Duration::from_millis(10);

/// The sockets of the name server.
#[derive(Debug)]
pub(super) struct Opened {
    udp: StdSocket,
    tcp: StdListener,
    pub(super) address: SocketAddr,
}

/// Opens the name server's sockets, of one address and port, or takes those that were opened for it.
pub(super) fn open(
    at: SocketAddr,
    sockets: Option<(StdSocket, StdListener)>,
) -> io::Result<Opened> {
    let (udp, tcp) = match sockets {
        Some((udp, tcp)) => {
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            (udp, tcp)
        }
        None => {
            let udp: StdSocket = bind(at, Ip::UDP, Sharing::Alone, false)?.into();
            let tcp = bind(udp.local_addr()?, Ip::TCP, Sharing::AfterOthers, false)?;
            tcp.listen(i32::try_from(STREAMS_MAX).unwrap_or(i32::MAX))?;
            (udp, tcp.into())
        }
    };
    let address = udp.local_addr()?;
    udp::want_origin(&udp, address.is_ipv6())?;
    Ok(Opened { udp, tcp, address })
}

/// A question that was passed on, where some name server may have it.
struct Forwarded {
    /// The verdict on the server that was asked last; [`None`] where none was.
    asked: Option<Decision>,
    answer: Result<Message, (Message, DnsQuery)>,
}

/// What all queries share.
struct NameServer {
    worker: Rc<Worker>,
    dns: Dns,
    resolver: Arc<Resolver>,
    clients: Clients,
    in_flight: Places,
    streams: Places,
    ledger: Ledger,
}

/// Answers queries until a socket breaks; to stop it, drop the future.
pub(super) async fn run(
    opened: Opened,
    dns: Dns,
    resolver: Arc<Resolver>,
    worker: Rc<Worker>,
) -> io::Error {
    let sockets = (UdpSocket::from_std(opened.udp), TcpListener::from_std(opened.tcp));
    let (udp, tcp) = match sockets {
        (Ok(udp), Ok(tcp)) => (udp, tcp),
        (Err(fault), _) | (_, Err(fault)) => return fault,
    };
    let name_server = Rc::new(NameServer {
        ledger: Ledger::new(worker.account.clone()),
        worker,
        clients: Clients::new(dns.rate),
        dns,
        resolver,
        in_flight: Places::new(IN_FLIGHT_MAX),
        streams: Places::new(STREAMS_MAX),
    });
    tokio::select! {
        fault = over_udp(Rc::new(udp), &name_server) => fault,
        fault = over_tcp(tcp, &name_server) => fault,
        never = name_server.write_down() => match never {},
    }
}

async fn over_udp(socket: Rc<UdpSocket>, name_server: &Rc<NameServer>) -> io::Error {
    let mut batch = RecvBatch::default();
    loop {
        if let Err(fault) = socket.readable().await {
            return fault;
        }
        match socket.try_io(Interest::READABLE, || batch.receive(&*socket)) {
            Ok(_) => {
                for (datagram, bytes) in batch.datagrams() {
                    let (Some(client), Some(to)) = (datagram.from, datagram.to) else { continue };
                    let asker = name_server.dns.client.of(client);
                    if !name_server.may_ask(asker) {
                        continue;
                    }
                    let (name_server, socket, query) =
                        (Rc::clone(name_server), Rc::clone(&socket), bytes.to_vec());
                    spawn_local(async move {
                        if let Some(reply) = name_server.answer(asker, &query, true).await {
                            // An answer that is lost is asked for again.
                            send_from(&socket, &reply, reply.len(), client, to).ok();
                        }
                    });
                }
                yield_now().await;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(fault) => match class(&fault) {
                Accept::Connection => yield_now().await,
                Accept::Exhausted => sleep(PAUSE).await,
                // An ICMP error about an answer is told here as well.
                Accept::Listener if fault.kind() == io::ErrorKind::ConnectionRefused => {}
                Accept::Listener => return fault,
            },
        }
    }
}

async fn over_tcp(listener: TcpListener, name_server: &Rc<NameServer>) -> io::Error {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let client = name_server.dns.client.of(crate::net::canonical(client));
                let name_server = Rc::clone(name_server);
                spawn_local(async move {
                    // A client that breaks off has its answer elsewhere, or none.
                    name_server.stream(stream, client).await.ok();
                });
            }
            Err(fault) => match class(&fault) {
                Accept::Connection => {}
                Accept::Exhausted => sleep(PAUSE).await,
                Accept::Listener => return fault,
            },
        }
    }
}

impl NameServer {
    /// Writes the record of the questions, for ever.
    async fn write_down(&self) -> Infallible {
        loop {
            sleep(ledger::PERIOD).await;
            self.ledger.write_all();
        }
    }

    fn may_ask(&self, client: SocketAddr) -> bool {
        let may = self.clients.may_ask(client.ip());
        if !may {
            self.worker.account.metrics().dns(DnsQuery::Limited);
        }
        may
    }

    /// Serves a client over TCP, one query after the other.
    async fn stream(&self, mut stream: TcpStream, client: SocketAddr) -> io::Result<()> {
        let Some(_place) = self.streams.take(client.ip()) else {
            self.worker.account.metrics().dns(DnsQuery::Busy);
            return Ok(());
        };
        loop {
            let query = async {
                let length = stream.read_u16().await?;
                let mut query = vec![0; length.into()];
                stream.read_exact(&mut query).await?;
                io::Result::Ok(query)
            };
            let query = timeout(STREAM_IDLE, query).await??;
            if !self.may_ask(client) {
                return Ok(());
            }
            let Some(reply) = self.answer(client, &query, false).await else { return Ok(()) };
            timeout(STREAM_IDLE, stream.write_all(&framed(&reply)?)).await??;
        }
    }

    /// The answer to a query, where it gets one.
    async fn answer(&self, client: SocketAddr, query: &[u8], over_udp: bool) -> Option<Vec<u8>> {
        let metrics = self.worker.account.metrics();
        let asking = match Asking::read(query) {
            Ok(asking) => asking,
            Err(unread) => {
                let (result, reply) = match unread {
                    Unread::Malformed => (DnsQuery::Malformed, None),
                    Unread::BadName(reply) => (DnsQuery::Malformed, Some(reply)),
                    Unread::Unsupported(reply) => (DnsQuery::Unsupported, Some(reply)),
                };
                metrics.dns(result);
                return reply?.to_vec().ok();
            }
        };
        let Some(_place) = self.in_flight.take(client.ip()) else {
            metrics.dns(DnsQuery::Busy);
            return None;
        };
        let (reply, result) = self.settle(&asking, client).await;
        match asking.encoded(&reply, over_udp) {
            Ok(bytes) => {
                metrics.dns(result);
                Some(bytes)
            }
            Err(_) => {
                metrics.dns(DnsQuery::Failed);
                asking.encoded(&asking.reply(ResponseCode::ServFail), over_udp).ok()
            }
        }
    }

    async fn settle(&self, asking: &Asking, client: SocketAddr) -> (Message, DnsQuery) {
        if let Some(refused) = self.refused_by_name(asking, client) {
            return refused;
        }
        // Known here, and nothing that leaves.
        if let Some(reply) = asking.loopback() {
            return (reply, DnsQuery::Local);
        }
        if let Some(refused) = self.withheld(asking, client) {
            return refused;
        }
        let Forwarded { asked, answer } = self.forwarded(asking, client).await;
        let settled = match answer {
            // Another policy may have come while the name server was asked.
            Ok(message) => match self.refused_by_name(asking, client) {
                Some(refused) => refused,
                None => self.sifted(asking, client, asking.passed_on(message)),
            },
            Err(missed) => missed,
        };
        // What was refused in the end has a record of its own.
        if let Some(judged) = asked.filter(|_| settled.1 != DnsQuery::Refused) {
            let end = if settled.1 == DnsQuery::Failed { End::DnsError } else { End::Done };
            self.ledger.asked(client, judged, end);
        }
        settled
    }

    /// The refusal of a question that is not passed on, whatever the policy says about its name: the
    /// type is not among those that may leave, or its client has asked about too many names.
    fn withheld(&self, asking: &Asking, client: SocketAddr) -> Option<(Message, DnsQuery)> {
        let asked = evaluate::question_about(client.ip(), asking.name.as_ref());
        let metrics = self.worker.account.metrics();
        let kind = asking.kind();
        let (answer, why, result) = if !self.dns.types.contains(&kind.into()) {
            let verdict = *Verdict::guarded(asked.destination).verdict();
            let why = format!("questions of type {kind} are not forwarded ([dns] types)");
            (Answer { verdict, bound: None }, why, DnsQuery::Unsupported)
        } else {
            let name = asking.name.as_ref()?;
            let taken = self.worker.names.allowance().take(client.ip(), name);
            let why = taken.err()?.to_string();
            (evaluate::over_limit(&asked, metrics), why, DnsQuery::Limited)
        };
        let (judged, contact) = match self.worker.live.load(now_ms()) {
            Ok(policy) => (answer.judged(&policy, &asked), policy.contact().map(str::to_owned)),
            Err(_) => (Decision::without_policy(answer.verdict), None),
        };
        let reason = answer.verdict.reason().label();
        let event = self.ledger.refused(client, judged);
        let mut words = format!("{reason}: {why} event {event}");
        if let Some(contact) = contact {
            words.push_str("; ");
            words.push_str(&contact);
        }
        Some((asking.explained(ResponseCode::Refused, PROHIBITED, &words), result))
    }

    /// The refusal of a name that no address, port or protocol can save.
    fn refused_by_name(&self, asking: &Asking, client: SocketAddr) -> Option<(Message, DnsQuery)> {
        let Ok(policy) = self.worker.live.load(now_ms()) else {
            let words = self.record_overload(client);
            let reply = asking.explained(ResponseCode::ServFail, PROHIBITED, &words);
            return Some((reply, DnsQuery::Refused));
        };
        let name = asking.name.as_ref()?;
        let metrics = self.worker.account.metrics();
        let (asked, answer) = evaluate::name_refused(&policy, client.ip(), name, metrics)?;
        let words = self.record(&policy, &asked, answer, client);
        let code = if self.dns.nxdomain { ResponseCode::NXDomain } else { ResponseCode::Refused };
        Some((asking.explained(code, BLOCKED, &words), DnsQuery::Refused))
    }

    /// Asks the name servers that may have the client's question, until one answers.
    async fn forwarded(&self, asking: &Asking, client: SocketAddr) -> Forwarded {
        let (mut asked, mut refused) = (None, None);
        let may = |server| match self.may_have(asking, server, client, refused.is_none()) {
            Ok(judged) => {
                asked = Some(judged);
                true
            }
            Err(words) => {
                refused.get_or_insert(words);
                false
            }
        };
        let answer = self.resolver.servers().ask(&asking.onward(), may).await;
        if let Some(message) = answer {
            return Forwarded { asked, answer: Ok(message) };
        }
        let answer = Err(match refused {
            Some(words) if asked.is_none() => {
                let reply = asking.explained(ResponseCode::Refused, PROHIBITED, &words);
                (reply, DnsQuery::Refused)
            }
            Some(_) | None => (asking.reply(ResponseCode::ServFail), DnsQuery::Failed),
        });
        Forwarded { asked, answer }
    }

    /// The verdict by which a name server may have the client's question.
    ///
    /// # Errors
    /// The policy refuses that, and this is why; with a record of it where that is wanted.
    fn may_have(
        &self,
        asking: &Asking,
        server: Server,
        client: SocketAddr,
        record: bool,
    ) -> Result<Decision, String> {
        let Ok(policy) = self.worker.live.load(now_ms()) else {
            return Err(self.record_overload(client));
        };
        let question = evaluate::question_about(client.ip(), asking.name.as_ref());
        // The host itself is no destination: where a name server here asks on, it asks as a client.
        if server.at.ip().is_loopback() {
            let answer = evaluate::asked_here(&policy, &question, server.at);
            return Ok(answer.judged(&policy, &question));
        }
        // Who configured the server tied its name to its address. One without a name is none whose
        // name could not be read: it is judged as one that no rule knows (RFC 2606 §2).
        let nameless = || HostName::parse(b"nameserver.invalid").ok();
        let name = server.tls.or_else(nameless).map(|name| (name, NameSource::Dns));
        let asked = Subject {
            name,
            evidence: NameEvidence::Resolved,
            ..Subject::unread(client.ip(), server.at)
        };
        let all = match server.tls {
            Some(_) => vec![Subject { protocol: Protocol::Tls, ..asked }],
            None => vec![asked.clone().over(Transport::Udp), asked],
        };
        let metrics = self.worker.account.metrics();
        let mut permitted = None;
        for asked in all {
            match evaluate::evaluate_cached(&policy, &asked, metrics) {
                Some(answer) if answer.verdict.action() != Action::Block => {
                    let of_name = Subject { name: question.name, ..asked };
                    let judged = || Decision { bound: None, ..answer.judged(&policy, &of_name) };
                    permitted.get_or_insert_with(judged);
                }
                Some(answer) if record => {
                    let name = asked.name.filter(|_| server.tls.is_some());
                    let asked = Subject { name, ..asked };
                    return Err(self.record(&policy, &asked, answer, client));
                }
                Some(_) | None => return Err(String::new()),
            }
        }
        permitted.ok_or_else(String::new)
    }

    /// The answer without what the policy does not permit to be told.
    fn sifted(
        &self,
        asking: &Asking,
        client: SocketAddr,
        mut message: Message,
    ) -> (Message, DnsQuery) {
        let Ok(policy) = self.worker.live.load(now_ms()) else {
            let words = self.record_overload(client);
            return (
                asking.explained(ResponseCode::ServFail, PROHIBITED, &words),
                DnsQuery::Refused,
            );
        };
        let metrics = self.worker.account.metrics();
        let refused = |address: IpAddr| {
            evaluate::address_refused(&policy, client.ip(), asking.name.as_ref(), address, metrics)
        };
        let keep = |address| !self.dns.filter || refused(address).is_none();
        let before = message.answers.len() + message.additionals.len();
        let Sifted { refused: taken, left, ttl } = sift(&mut message, self.dns.strip_ech, keep);
        if message.answers.len() + message.additionals.len() != before || self.dns.strip_ech {
            // What is no longer as it was signed is not vouched for.
            message.metadata.authentic_data = false;
        }
        let addresses = matches!(asking.kind(), RecordType::A | RecordType::AAAA);
        if addresses
            && !left.is_empty()
            && let Some(name) = asking.exact_name()
        {
            self.worker.names.insert(name, &left, Duration::from_secs(ttl.into()));
        }
        match taken.first() {
            Some(&first) if addresses && left.is_empty() => {
                if let Some((asked, answer)) = refused(first) {
                    let words = self.record(&policy, &asked, answer, client);
                    asking.explain(&mut message, BLOCKED, &words);
                }
                (message, DnsQuery::Refused)
            }
            Some(_) => (message, DnsQuery::Filtered),
            None => (message, DnsQuery::Forwarded),
        }
    }

    /// Writes down a refusal, and puts it in words for the client.
    fn record(
        &self,
        policy: &Policy,
        asked: &Subject,
        answer: Answer,
        client: SocketAddr,
    ) -> String {
        let mut record = self.worker.account.open(client, Ingress::Dns);
        record.judged(answer.judged(policy, asked));
        let reason = answer.verdict.reason();
        let mut words = format!("{}: {} event {}", reason.label(), reason.sentence(), record.id());
        if let Some(contact) = policy.contact() {
            words.push_str("; ");
            words.push_str(contact);
        }
        record.finish(End::Refused);
        words
    }

    fn record_overload(&self, client: SocketAddr) -> String {
        let mut record = self.worker.account.open(client, Ingress::Dns);
        let nowhere = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
        let verdict = *Verdict::overload(nowhere).verdict();
        record.judged(Decision::without_policy(verdict));
        record.finish(End::Refused);
        verdict.reason().label().to_owned()
    }
}
