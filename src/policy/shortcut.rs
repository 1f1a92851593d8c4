//! Which destinations the kernel may judge by itself: those whose verdict is the same whoever asks,
//! whatever the client sends, and leaves no more behind than a count.
//!
//! Nothing is judged here. Each class of addresses is put to [`Policy::decide_unread`], once for
//! each class of clients and of ports, and where all answers agree the class is the kernel's.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use super::address::{canonical, target};
use super::flatten::AddressBits;
use super::{
    Action, AddressKind, Claim, Country, Location, Mode, Policy, Question, Reason, Transport,
};
use crate::identify::Protocol;

/// Most intervals that are handed to the kernel. `nft` 1.0.6 takes 6 to 7 s and 730 MB for 260,000 of
/// them, and took 23 to 33 s and 1.3 GB for 480,000 on a machine that did much else; the kernel keeps
/// these in some 50 MB (Linux 6.18, AMD EPYC, two shared cores).
pub const INTERVALS_MAX: usize = 500_000;

/// Most groups of ports that are judged differently from each other.
pub const PORT_CLASSES_MAX: usize = 4;

/// Who carries the connections to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Datapath {
    /// The kernel: forwarded (`Allow`) or refused (`Block`), and counted.
    Kernel(Action, Reason),
    /// The gateway, and why not the kernel.
    Gateway(SlowPathReason),
}

/// Why the kernel may not judge a destination by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlowPathReason {
    /// The destination is the gateway itself.
    Own,
    /// The address carries another one, which is judged.
    Embedded,
    /// An address that nothing opens; whoever tries it is recorded.
    Guard,
    /// The name, the protocol or ECH may change the verdict.
    FirstBytes,
    /// Some clients are only observed.
    Observed,
    /// Not all clients get the same verdict.
    Clients,
    /// The verdict is `log`: every connection is to be recorded.
    Recorded,
    /// A waiver decides, and its use is to be recorded.
    Waiver,
}

impl SlowPathReason {
    /// One sentence for the person who asks.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Own => "the destination is the gateway itself",
            Self::Embedded => "the address carries another one, which is judged",
            Self::Guard => "whoever tries an address that nothing opens is recorded",
            Self::FirstBytes => "the name, the protocol or ECH may change the verdict",
            Self::Observed => "some clients are only observed, and what they do is recorded",
            Self::Clients => "not all clients get the same verdict",
            Self::Recorded => "the verdict is `log`: every connection is recorded",
            Self::Waiver => "the use of a waiver is recorded",
        }
    }
}

/// Where the kernel's counter of an address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// One country.
    Country(Country),
    /// One of several countries.
    Several,
    /// Announced from many places.
    Anycast,
    /// No country: private space, or nobody knows.
    Nowhere,
}

impl Place {
    /// A country's code, `several`, `anycast` or `none`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Country(country) => country.code(),
            Self::Several => "several",
            Self::Anycast => "anycast",
            Self::Nowhere => "none",
        }
    }

    fn of(location: Option<&Location>) -> Self {
        let Some(location) = location else { return Self::Nowhere };
        let mut codes = location.codes.iter();
        match (codes.next(), codes.next()) {
            _ if location.anycast => Self::Anycast,
            (Some(country), None) if !location.unknown => Self::Country(country),
            (Some(_), _) => Self::Several,
            (None, _) => Self::Nowhere,
        }
    }
}

/// What the kernel does with the packets to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KernelVerdict {
    /// `Allow` or `Block`.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// Where it is counted; of what is refused, the reason alone counts.
    pub place: Option<Place>,
}

/// Neighbouring addresses of one fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval<A> {
    /// First address.
    pub first: A,
    /// Last address.
    pub last: A,
    /// What becomes of them.
    pub fate: KernelVerdict,
}

/// The ports that are judged alike, and how.
#[derive(Debug, Default)]
pub struct PortClass {
    /// Transport and ports.
    pub ports: Vec<(Transport, RangeInclusive<u16>)>,
    /// Ascending, disjoint; no two neighbours could be one.
    pub v4: Vec<Interval<u32>>,
    /// The same for IPv6.
    pub v6: Vec<Interval<u128>>,
}

/// All that the kernel may judge by itself, until an instant.
#[derive(Debug)]
pub struct Shortcut {
    /// The policy's version.
    pub version: String,
    /// First instant, ms since 1970 UTC, at which the policy may say something else.
    pub valid_until_ms: i64,
    /// At most [`PORT_CLASSES_MAX`].
    pub planes: Vec<PortClass>,
}

impl Shortcut {
    /// Intervals of all planes and both families.
    #[must_use]
    pub fn intervals(&self) -> usize {
        self.planes.iter().map(|plane| plane.v4.len() + plane.v6.len()).sum()
    }
}

/// Why there is no short cut for a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// More intervals than a firewall should hold.
    #[error(
        "the policy cuts the address space into {0} intervals, and the kernel short cut takes at \
         most {INTERVALS_MAX}; permit by fewer or wider lists, or switch `capture.shortcut` off"
    )]
    Intervals(usize),
    /// More ways to judge a port than are told apart.
    #[error(
        "the rules judge ports in {0} different ways, and the kernel short cut tells at most \
         {PORT_CLASSES_MAX} apart; use fewer `port` conditions, or switch `capture.shortcut` off"
    )]
    Planes(usize),
}

/// One client of each class of clients; where some class has none, nothing is the kernel's.
#[derive(Debug)]
pub struct Clients(Option<Vec<Option<IpAddr>>>);

/// The longest stretch of addresses that are looked through for one that is not the gateway's own.
const LOOKED_AT: usize = 64;

impl Policy {
    /// Chooses one of `candidates` for each class of clients. The first address of each client
    /// prefix, and the one behind its last, are enough: every class begins at one of these.
    #[must_use]
    pub fn clients(&self, candidates: impl IntoIterator<Item = IpAddr>) -> Clients {
        let mut of_class: Vec<Option<Option<IpAddr>>> = vec![None; self.clients.classes.len()];
        if let Some(nobody) = of_class.first_mut() {
            *nobody = Some(None);
        }
        for candidate in candidates {
            let class = self.clients.position(Some(candidate)) as usize;
            if let Some(slot) = of_class.get_mut(class) {
                slot.get_or_insert(Some(candidate));
            }
        }
        Clients(of_class.into_iter().collect())
    }

    /// Who carries the connections to a destination.
    #[must_use]
    pub fn path(
        &self,
        destination: SocketAddr,
        transport: Transport,
        clients: &Clients,
    ) -> Datapath {
        let ip = destination.ip();
        let seen = target(ip);
        if self.is_own(ip) || seen.kind == AddressKind::Loop {
            return Datapath::Gateway(SlowPathReason::Own);
        }
        if canonical(ip) != ip || seen.outer.is_some() {
            return Datapath::Gateway(SlowPathReason::Embedded);
        }
        if seen.kind == AddressKind::Guard {
            return Datapath::Gateway(SlowPathReason::Guard);
        }
        let Clients(Some(clients)) = clients else {
            return Datapath::Gateway(SlowPathReason::Clients);
        };
        let mut agreed = None;
        for &client in clients {
            let fate = match self.asked_by(client, destination, transport) {
                Ok(fate) => fate,
                Err(detour) => return Datapath::Gateway(detour),
            };
            if *agreed.get_or_insert(fate) != fate {
                return Datapath::Gateway(SlowPathReason::Clients);
            }
        }
        match agreed {
            Some((action, reason)) => Datapath::Kernel(action, reason),
            None => Datapath::Gateway(SlowPathReason::Clients),
        }
    }

    /// The verdict for one client, where nothing that the client sends can change it and no record
    /// of it is needed.
    fn asked_by(
        &self,
        client: Option<IpAddr>,
        destination: SocketAddr,
        transport: Transport,
    ) -> Result<(Action, Reason), SlowPathReason> {
        let question = Question {
            client,
            destination,
            transport,
            protocol: Protocol::Other,
            name: Claim::Unread,
            ech: false,
        };
        let verdict = self.decide_unread(&question).ok_or(SlowPathReason::FirstBytes)?;
        match (verdict.mode(), verdict.action(), verdict.reason()) {
            (Mode::Observe, _, _) => Err(SlowPathReason::Observed),
            (Mode::Enforce, Action::Log, _) => Err(SlowPathReason::Recorded),
            (Mode::Enforce, _, Reason::Waiver) => Err(SlowPathReason::Waiver),
            (Mode::Enforce, _, Reason::Loop) => Err(SlowPathReason::Own),
            (Mode::Enforce, _, Reason::Guard) => Err(SlowPathReason::Guard),
            (Mode::Enforce, action @ (Action::Allow | Action::Block), reason) => {
                Ok((action, reason))
            }
        }
    }

    /// All that the kernel may judge by itself; without `refuses`, what it may forward. Needs an
    /// address table that kept its ranges.
    ///
    /// # Errors
    /// [`TooMuch`] where the kernel would have to hold more than it should.
    pub fn shortcut(&self, clients: &Clients, refuses: bool) -> Result<Shortcut, TooMuch> {
        let samples = self.samples();
        let mut planes: Vec<(Vec<Option<KernelVerdict>>, PortClass)> = Vec::new();
        let mut known: HashMap<Vec<Option<KernelVerdict>>, usize> = HashMap::new();
        // Without an enforced client nothing is the kernel's, whatever the address.
        let transports = if self.clients.groups.iter().all(|group| group.mode == Mode::Enforce) {
            [Transport::Tcp, Transport::Udp].as_slice()
        } else {
            &[]
        };
        for &transport in transports {
            for ports in self.port_ranges() {
                let mut fates = self.fates(&samples, *ports.start(), transport, clients);
                let is_wanted = |fate: &KernelVerdict| refuses || fate.action == Action::Allow;
                fates.iter_mut().for_each(|fate| *fate = fate.filter(is_wanted));
                if fates.iter().all(Option::is_none) {
                    continue;
                }
                let next = planes.len();
                let at = *known.entry(fates.clone()).or_insert(next);
                if at == next {
                    planes.push((fates, PortClass::default()));
                }
                if let Some((_, plane)) = planes.get_mut(at) {
                    plane.ports.push((transport, ports));
                }
            }
        }
        if planes.len() > PORT_CLASSES_MAX {
            return Err(TooMuch::Planes(planes.len()));
        }
        let (kept_v4, kept_v6) = self.kept_out();
        let cut = |(fates, plane): (Vec<Option<KernelVerdict>>, PortClass)| PortClass {
            v4: intervals(self.address_table.v4_ranges(), &fates, &kept_v4),
            v6: intervals(self.address_table.v6_ranges(), &fates, &kept_v6),
            ..plane
        };
        let shortcut = Shortcut {
            version: self.terms.version.clone(),
            valid_until_ms: self.terms.valid_until_ms,
            planes: planes.into_iter().map(cut).collect(),
        };
        match shortcut.intervals() {
            many if many > INTERVALS_MAX => Err(TooMuch::Intervals(many)),
            _ => Ok(shortcut),
        }
    }

    /// The fate of each class of addresses on a port; `None` is the gateway's.
    fn fates(
        &self,
        samples: &[Option<IpAddr>],
        port: u16,
        transport: Transport,
        clients: &Clients,
    ) -> Vec<Option<KernelVerdict>> {
        let fate = |(sample, class): (&Option<IpAddr>, &super::Class)| {
            let at = SocketAddr::new((*sample)?, port);
            let Datapath::Kernel(action, reason) = self.path(at, transport, clients) else {
                return None;
            };
            let location = self.address_table.locations().get(class.location as usize);
            let place = (action == Action::Allow).then(|| Place::of(location));
            Some(KernelVerdict { action, reason, place })
        };
        samples.iter().zip(self.address_table.classes()).map(fate).collect()
    }

    /// An address of each class that stands for all of it; `None` where there is none that is
    /// neither the gateway's own nor one that carries another.
    fn samples(&self) -> Vec<Option<IpAddr>> {
        let mut samples = vec![None; self.address_table.classes().len()];
        let plain =
            |ip: &IpAddr| canonical(*ip) == *ip && target(*ip).outer.is_none() && !self.is_own(*ip);
        let mut look = |class: u32, addresses: &mut dyn Iterator<Item = IpAddr>| {
            if let Some(slot @ None) = samples.get_mut(class as usize) {
                *slot = addresses.take(LOOKED_AT).find(plain);
            }
        };
        for (first, last, class) in pieces(self.address_table.v4_ranges()) {
            look(class, &mut (first..=last).map(|bits| Ipv4Addr::from_bits(bits).into()));
        }
        for (first, last, class) in pieces(self.address_table.v6_ranges()) {
            look(class, &mut (first..=last).map(|bits| Ipv6Addr::from_bits(bits).into()));
        }
        samples
    }

    /// Whether an address is the gateway itself, on any port.
    pub(super) fn is_own(&self, ip: IpAddr) -> bool {
        self.own.all().any(|own| own == canonical(ip))
    }

    /// Neighbouring ports of one class.
    fn port_ranges(&self) -> Vec<RangeInclusive<u16>> {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        let mut before = None;
        for (port, class) in (0..=u16::MAX).zip(self.index.ports.classes.iter()) {
            match ranges.last_mut() {
                Some(range) if before == Some(class) => *range = *range.start()..=port,
                _ => ranges.push(port..=port),
            }
            before = Some(class);
        }
        ranges
    }

    /// What no interval may hold: the gateway's own addresses, and those that carry another.
    fn kept_out(&self) -> (Stretches<u32>, Stretches<u128>) {
        let (mut v4, mut v6) = (Vec::new(), EMBEDDING.to_vec());
        for own in self.own.all() {
            match own {
                IpAddr::V4(ip) => v4.push((ip.to_bits(), ip.to_bits())),
                IpAddr::V6(ip) => v6.push((ip.to_bits(), ip.to_bits())),
            }
        }
        v4.sort_unstable();
        v6.sort_unstable();
        (v4, v6)
    }
}

/// First and last address of each.
type Stretches<A> = Vec<(A, A)>;

/// IPv6 addresses that carry an IPv4 address: mapped, NAT64, Teredo, 6to4 (`super::address`).
const EMBEDDING: [(u128, u128); 4] = [
    (0xffff << 32, (0xffff << 32) | 0xffff_ffff),
    (0x0064_ff9b << 96, (0x0064_ff9b << 96) | 0xffff_ffff),
    (0x2001 << 112, (0x2001 << 112) | (u128::MAX >> 32)),
    (0x2002 << 112, (0x2002 << 112) | (u128::MAX >> 16)),
];

/// First and last address, and value, of each piece of a table that gives the first of each.
fn pieces<A: AddressBits + Before>(starts: &[(A, u32)]) -> impl Iterator<Item = (A, A, u32)> {
    starts.iter().enumerate().map(|(at, &(first, class))| {
        let next = starts.get(at + 1).and_then(|&(next, _)| next.before());
        (first, next.unwrap_or(A::MAX), class)
    })
}

/// The address before an address.
trait Before: Copy {
    fn before(self) -> Option<Self>;
}

impl Before for u32 {
    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

impl Before for u128 {
    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

/// The intervals of all pieces that have a fate, merged, without what is kept out (ascending).
fn intervals<A: AddressBits + Before>(
    starts: &[(A, u32)],
    fates: &[Option<KernelVerdict>],
    kept_out: &[(A, A)],
) -> Vec<Interval<A>> {
    let mut found: Vec<Interval<A>> = Vec::new();
    let mut add = |first: A, last: A, fate: KernelVerdict| match found.last_mut() {
        Some(before) if before.fate == fate && before.last.next() == Some(first) => {
            before.last = last;
        }
        _ => found.push(Interval { first, last, fate }),
    };
    for (first, last, class) in pieces(starts) {
        let Some(Some(fate)) = fates.get(class as usize).copied() else { continue };
        let mut from = Some(first);
        for &(out_first, out_last) in kept_out {
            let Some(at) = from.filter(|&at| at <= out_last && out_first <= last) else { continue };
            if let Some(end) = out_first.before().filter(|&end| at <= end) {
                add(at, end, fate);
            }
            from = out_last.next();
        }
        if let Some(at) = from.filter(|&at| at <= last) {
            add(at, last, fate);
        }
    }
    found
}
