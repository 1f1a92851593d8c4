//! Tries the capture as a client would: packets arrive by an interface of our own that the rules
//! name beside the clients', and go to an address that leads to another one. Either the gateway
//! refuses them, or they come out on the far side, or nothing is heard of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use etherparse::{
    IpHeaders as Ip, IpNumber, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket,
    TransportSlice,
};

use super::family::Family;
use super::fault::CaptureFault;
use super::matches::NEAR;
use super::model::Capture;
use super::program::{checked, words};
use super::state::Seen;
use crate::policy::probe::{FROM, TO};
use crate::sys::Tun;

/// The interface on which they would come out.
pub(super) const FAR: &str = "schg-far";

/// An address for the near interface: without one the kernel trusts no source there (strict reverse
/// path). Of the link alone (RFC 3927).
const NEAR_ADDRESS: &str = "169.254.83.71/32";

/// And over IPv6, where REDIRECT delivers to an address of the interface that a packet came in by: beside
/// the one that probes come from.
const NEAR_ADDRESS_6: &str = "100:0:0:1::5348/128";

/// How long an answer is waited for.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);

/// The port of QUIC, and of what most clients ask for.
pub(super) const HTTPS: u16 = 443;

/// A protocol that nobody speaks (RFC 3692): no listener takes it, so the fences must stop it.
const NOBODYS: IpNumber = IpNumber(253);

/// Where the source ports of probes begin.
const PORTS: u16 = 20_000;

/// The two interfaces, and what is asked by them.
#[derive(Debug)]
pub(super) struct Probe {
    near: Tun,
    far: Tun,
    asks: Vec<Ask>,
    turn: u16,
}

/// What is asked of one family.
#[derive(Debug, Clone, Copy)]
struct Ask {
    family: Family,
    tcp: bool,
    udp: Udp,
}

/// What becomes of a datagram where all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Udp {
    /// The gateway answers, on its own port.
    Answered(u16),
    /// The firewall refuses it.
    Prohibited,
}

/// One packet, as far as a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    from: IpAddr,
    to: IpAddr,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Tcp {
        to_port: u16,
        sequence: u32,
        syn: bool,
        ends: bool,
    },
    Udp {
        to_port: u16,
        payload: Vec<u8>,
    },
    /// An ICMP error: administratively prohibited.
    Unreachable,
    Other,
}

impl Packet {
    /// Whether a probe from there sent it: no probe ends a connection. Where answers lead back to this
    /// host, its kernel does, in the probe's name.
    pub(super) fn is_sent(&self, from: IpAddr) -> bool {
        self.from == from && !matches!(self.what, What::Tcp { ends: true, .. })
    }
}

/// Makes an interface, and has it up.
pub(super) fn open(name: &'static str) -> Result<Tun, CaptureFault> {
    let tun = Tun::open(name).map_err(|source| CaptureFault::Tun { name, source })?;
    // No address of its own making, and none of its neighbours': IPv6 may be switched off.
    ip(&format!("link set dev {name} addrgenmode none")).ok();
    ip(&format!("link set dev {name} up"))?;
    Ok(tun)
}

impl Probe {
    /// Makes the two interfaces.
    ///
    /// # Errors
    /// They cannot be made, or no route leads to them.
    pub(super) fn start(capture: &Capture) -> Result<Self, CaptureFault> {
        let (near, far) = (open(NEAR)?, open(FAR)?);
        ip(&format!("-4 address replace {NEAR_ADDRESS} dev {NEAR} scope link"))?;
        // IPv6 may be switched off.
        ip(&format!("-6 address replace {NEAR_ADDRESS_6} dev {NEAR} nodad")).ok();
        let mut asks = Vec::new();
        let captured = capture.tcp.iter().zip(&capture.udp);
        for ((place, family), (tcp, udp)) in Family::ALL.into_iter().enumerate().zip(captured) {
            if !family.exists() {
                continue;
            }
            let routed = [(FROM, NEAR), (TO, FAR)].iter().try_for_each(|(ips, name)| {
                let (digit, to) = (family.digit(), ips.get(place).ok_or(())?);
                // As the kernel's own: systemd-networkd takes away those of others.
                let route = format!("-{digit} route replace {to} dev {name} protocol kernel");
                ip(&route).map(drop).map_err(drop)
            });
            if routed.is_err() {
                tracing::info!(family = %family.digit(), "no probes of this family: it is off here");
                continue;
            }
            let udp = udp.map_or(Udp::Prohibited, |target| Udp::Answered(target.address.port()));
            asks.push(Ask { family, tcp: tcp.is_some(), udp });
        }
        Ok(Self { near, far, asks, turn: 0 })
    }

    /// Asks everything once, and gives what became of it by way.
    pub(super) fn ask(&mut self) -> BTreeMap<String, Seen> {
        let mut found = BTreeMap::new();
        for ask in self.asks.clone() {
            self.turn = (self.turn + 1) % 40_000;
            let digit = ask.family.digit();
            for (way, seen) in self.ask_one(ask) {
                found.insert(format!("{way}{digit}"), seen);
            }
        }
        found
    }

    fn ask_one(&self, ask: Ask) -> Vec<(&'static str, Seen)> {
        let mut exchange = Exchange::new(ask, PORTS + self.turn);
        let mut buffer = vec![0; 2048];
        // What came since the last time is not about this one.
        for tun in [&self.near, &self.far] {
            while matches!(tun.receive(&mut buffer), Ok(Some(_))) {}
        }
        let begun = Instant::now();
        for (arrives_near, packet) in exchange.begin() {
            let tun = if arrives_near { &self.near } else { &self.far };
            // Not sent is not answered.
            tun.send(&packet).ok();
        }
        while !exchange.is_done() {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            if left.is_zero() || Tun::wait(&self.near, &self.far, left).is_err() {
                break;
            }
            while let Ok(Some(length)) = self.near.receive(&mut buffer) {
                let packet = parse(buffer.get(..length).unwrap_or_default());
                if let Some(answer) = packet.and_then(|packet| exchange.came_back(&packet)) {
                    self.near.send(&answer).ok();
                }
            }
            while let Ok(Some(length)) = self.far.receive(&mut buffer) {
                if let Some(packet) = parse(buffer.get(..length).unwrap_or_default()) {
                    exchange.came_out(&packet);
                }
            }
        }
        exchange.end()
    }
}

/// The probes of one family, at one time.
#[derive(Debug)]
struct Exchange {
    ask: Ask,
    from: IpAddr,
    to: IpAddr,
    port: u16,
    accepted: bool,
    tcp: Option<Seen>,
    udp: Option<Seen>,
    past: Seen,
}

impl Exchange {
    fn new(ask: Ask, port: u16) -> Self {
        let [v4, v6] = [0, 1].map(|place: usize| (FROM.get(place), TO.get(place)));
        let (from, to) = if ask.family == Family::V4 { v4 } else { v6 };
        // Both lists have two addresses.
        let nobody = IpAddr::from([0, 0, 0, 0]);
        let (from, to) = (*from.unwrap_or(&nobody), *to.unwrap_or(&nobody));
        Self { ask, from, to, port, accepted: false, tcp: None, udp: None, past: Seen::Held }
    }

    /// What is sent at first, and whether it arrives by the near interface.
    fn begin(&self) -> Vec<(bool, Vec<u8>)> {
        let mut packets = vec![
            // First, so that they have come out when the answers are there.
            (true, written(headers(self.from, self.to), NOBODYS)),
            (false, written(headers(self.to, self.from), NOBODYS)),
        ];
        if self.ask.tcp {
            packets.push((true, self.tcp_packet(1, None)));
        }
        let port = match self.ask.udp {
            Udp::Answered(port) => port,
            Udp::Prohibited => HTTPS,
        };
        let mut packet = Vec::new();
        let built = headers(self.from, self.to).udp(self.port, port);
        if built.write(&mut packet, &self.port.to_be_bytes()).is_ok() {
            packets.push((true, packet));
        }
        packets
    }

    /// The first packet of a connection, or the one that acknowledges `theirs`.
    fn tcp_packet(&self, sequence: u32, theirs: Option<u32>) -> Vec<u8> {
        let tcp = headers(self.from, self.to).tcp(self.port, HTTPS, sequence, 64_000);
        let mut packet = Vec::new();
        let written = match theirs {
            None => tcp.syn().write(&mut packet, &[]),
            Some(theirs) => tcp.ack(theirs.wrapping_add(1)).write(&mut packet, b"?"),
        };
        // Memory takes all that is written.
        written.map_or_else(|_| Vec::new(), |()| packet)
    }

    /// Takes what came back by the near interface; what is to be sent in answer.
    fn came_back(&mut self, packet: &Packet) -> Option<Vec<u8>> {
        if packet.from == self.to && packet.to == self.from && packet.what == What::Other {
            // What arrived on the far side went through to the clients'.
            self.past = Seen::Open;
            return None;
        }
        if packet.to != self.from {
            return None;
        }
        match &packet.what {
            What::Tcp { to_port, sequence, syn, ends } if *to_port == self.port => {
                if *syn && !ends && !self.accepted {
                    self.accepted = true;
                    return Some(self.tcp_packet(2, Some(*sequence)));
                }
                // Refused by the one who accepted it. A reset at once is of a host without him.
                if *ends && self.tcp.is_none() {
                    self.tcp = Some(if self.accepted { Seen::Held } else { Seen::Lost });
                }
            }
            What::Udp { to_port, payload } if *to_port == self.port => {
                if *payload == self.port.to_be_bytes() && self.udp.is_none() {
                    self.udp = Some(Seen::Held);
                }
            }
            What::Unreachable if self.ask.udp == Udp::Prohibited && self.udp.is_none() => {
                self.udp = Some(Seen::Held);
            }
            What::Tcp { .. } | What::Udp { .. } | What::Unreachable | What::Other => {}
        }
        None
    }

    /// Takes what came out on the far side.
    fn came_out(&mut self, packet: &Packet) {
        if !packet.is_sent(self.from) {
            return;
        }
        match packet.what {
            What::Tcp { .. } => self.tcp = Some(Seen::Open),
            What::Udp { .. } => self.udp = Some(Seen::Open),
            What::Unreachable | What::Other => self.past = Seen::Open,
        }
    }

    fn is_done(&self) -> bool {
        (!self.ask.tcp || self.tcp.is_some()) && self.udp.is_some()
    }

    fn end(self) -> Vec<(&'static str, Seen)> {
        let mut ways = vec![("past", self.past), ("udp", self.udp.unwrap_or(Seen::Lost))];
        if self.ask.tcp {
            ways.push(("tcp", self.tcp.unwrap_or(Seen::Lost)));
        }
        ways
    }
}

/// `ip` is asked for these interfaces alone: without it the capture is kept, and not probed.
pub(super) fn ip(arguments: &str) -> Result<String, CaptureFault> {
    checked("ip", &words(arguments), None)
}

fn headers(from: IpAddr, to: IpAddr) -> PacketBuilderStep<Ip> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (from, to) => {
            let v6 = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            PacketBuilder::ipv6(v6(from), v6(to), 64)
        }
    }
}

fn written(headers: PacketBuilderStep<Ip>, protocol: IpNumber) -> Vec<u8> {
    let mut packet = Vec::new();
    let written = headers.write(&mut packet, protocol, b"schengate probe");
    written.map_or_else(|_| Vec::new(), |()| packet)
}

/// What a packet is; `None` for what is no packet of IP.
pub(super) fn parse(bytes: &[u8]) -> Option<Packet> {
    let sliced = SlicedPacket::from_ip(bytes).ok()?;
    let (from, to) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (IpAddr::from(header.source()), IpAddr::from(header.destination()))
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            (IpAddr::from(header.source()), IpAddr::from(header.destination()))
        }
        Some(NetSlice::Arp(_)) | None => return None,
    };
    let what = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => What::Tcp {
            to_port: tcp.destination_port(),
            sequence: tcp.sequence_number(),
            syn: tcp.syn(),
            ends: tcp.rst() || tcp.fin(),
        },
        Some(TransportSlice::Udp(udp)) => {
            What::Udp { to_port: udp.destination_port(), payload: udp.payload().to_vec() }
        }
        // Administratively prohibited (RFC 1812, RFC 4443).
        Some(TransportSlice::Icmpv4(icmp)) if icmp.type_u8() == 3 && icmp.code_u8() == 13 => {
            What::Unreachable
        }
        Some(TransportSlice::Icmpv6(icmp)) if icmp.type_u8() == 1 && icmp.code_u8() == 1 => {
            What::Unreachable
        }
        Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_))
        | None => What::Other,
    };
    Some(Packet { from, to, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(family: Family, udp: Udp) -> Exchange {
        Exchange::new(Ask { family, tcp: true, udp }, 20_001)
    }

    fn packet(exchange: &Exchange, what: What) -> Packet {
        Packet { from: exchange.to, to: exchange.from, what }
    }

    fn tcp(syn: bool, ends: bool) -> What {
        What::Tcp { to_port: 20_001, sequence: 7, syn, ends }
    }

    #[test]
    fn what_is_sent_is_read_as_what_it_is() {
        for family in Family::ALL {
            let exchange = ask(family, Udp::Answered(443));
            let sent: Vec<_> =
                exchange.begin().into_iter().map(|(_, bytes)| parse(&bytes).unwrap()).collect();
            assert_eq!(sent[0].what, What::Other);
            assert_eq!((sent[1].from, sent[1].to), (exchange.to, exchange.from));
            assert!(matches!(sent[2].what, What::Tcp { to_port: 443, syn: true, .. }));
            assert!(matches!(&sent[3].what, What::Udp { to_port: 443, .. }));
        }
    }

    #[test]
    fn a_connection_is_held_only_if_it_was_accepted_and_then_refused() {
        let mut accepted = ask(Family::V4, Udp::Prohibited);
        let syn = packet(&accepted, tcp(true, false));
        let answer = accepted.came_back(&syn).unwrap();
        assert!(matches!(parse(&answer).unwrap().what, What::Tcp { syn: false, .. }));
        assert_eq!(accepted.tcp, None, "accepted by the kernel, and nobody is behind it");
        let reset = packet(&accepted, tcp(false, true));
        accepted.came_back(&reset);
        assert_eq!(accepted.tcp, Some(Seen::Held));
        let mut nobody = ask(Family::V4, Udp::Prohibited);
        nobody.came_back(&reset);
        assert_eq!(nobody.tcp, Some(Seen::Lost));
    }

    #[test]
    fn what_comes_out_on_the_far_side_is_open() {
        for (what, way) in [
            (tcp(true, false), "tcp"),
            (What::Udp { to_port: 443, payload: vec![] }, "udp"),
            (What::Other, "past"),
        ] {
            let mut exchange = ask(Family::V6, Udp::Prohibited);
            let out = Packet { from: exchange.from, to: exchange.to, what };
            exchange.came_out(&out);
            assert!(exchange.end().contains(&(way, Seen::Open)), "{way}");
        }
        // Answers that lead back to this host: its kernel ends what it knows nothing of.
        let mut exchange = ask(Family::V6, Udp::Prohibited);
        exchange.came_out(&Packet { from: exchange.from, to: exchange.to, what: tcp(false, true) });
        assert!(exchange.end().contains(&("tcp", Seen::Lost)));
        let mut exchange = ask(Family::V4, Udp::Prohibited);
        let through = packet(&exchange, What::Other);
        exchange.came_back(&through);
        assert_eq!(exchange.past, Seen::Open);
    }

    #[test]
    fn a_refusal_by_the_firewall_is_none_of_the_gateway() {
        let mut exchange = ask(Family::V4, Udp::Answered(443));
        let prohibited = packet(&exchange, What::Unreachable);
        exchange.came_back(&prohibited);
        assert_eq!(exchange.udp, None);
        let mut exchange = ask(Family::V4, Udp::Prohibited);
        exchange.came_back(&prohibited);
        assert_eq!(exchange.udp, Some(Seen::Held));
    }
}
