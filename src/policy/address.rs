//! What an address is before any table is asked: the IANA special-purpose registries, the guards,
//! and the IPv4 addresses that hide inside IPv6 (docs/policy.md §3, step 1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is before any table is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressKind {
    /// Space that a registry may have given to somebody: the tables are asked.
    Ordinary,
    /// RFC 1918, CGNAT (RFC 6598), link-local, ULA (RFC 4193).
    Private,
    /// Of 2000::/3, what IANA has given to no registry: judged as ordinary space is, but nobody can be
    /// there, whatever a table says of it.
    Unallocated,
    /// Other special-purpose space (IANA registries; for IPv6 also all that lies outside 2000::/3).
    Special,
    /// Never opened: 0.0.0.0/8, multicast, 240.0.0.0/4, `::/96`, the cloud metadata services.
    Guard,
    /// Loopback.
    Loop,
}

/// An address as it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// What is looked up: the embedded IPv4 address where there is one, else the address itself.
    pub judged: IpAddr,
    /// The IPv6 address around an embedded IPv4 address (NAT64, 6to4, Teredo).
    pub outer: Option<Ipv6Addr>,
    /// What it is. An embedded address that is not ordinary is a guard, or the loop it names.
    pub kind: AddressKind,
}

/// The address that a client means: an IPv4-mapped IPv6 address (`::ffff:0:0/96`) *is* that IPv4.
#[must_use]
pub const fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Tells what to judge for `address` (canonical or not).
#[must_use]
#[inline]
pub fn target(address: IpAddr) -> Target {
    let judged = canonical(address);
    let IpAddr::V6(outer) = judged else {
        return Target { judged, outer: None, kind: address_kind(judged) };
    };
    let Some(inner) = embedded(outer) else {
        return Target { judged, outer: None, kind: address_kind(judged) };
    };
    let judged = IpAddr::V4(inner);
    let kind = match address_kind(judged) {
        AddressKind::Ordinary => AddressKind::Ordinary,
        AddressKind::Loop => AddressKind::Loop,
        AddressKind::Private
        | AddressKind::Unallocated
        | AddressKind::Special
        | AddressKind::Guard => AddressKind::Guard,
    };
    Target { judged, outer: Some(outer), kind }
}

/// The last bytes of some addresses: whether one is among them at all, without comparing it with each
/// (a host may have hundreds).
#[derive(Debug, Default)]
pub(super) struct LastBytes([u64; 4]);

impl LastBytes {
    const fn of(address: IpAddr) -> u8 {
        match address {
            IpAddr::V4(v4) => v4.to_bits() as u8,
            IpAddr::V6(v6) => v6.to_bits() as u8,
        }
    }

    /// Of these, canonical ones.
    pub(super) fn collect<'a>(addresses: impl Iterator<Item = &'a IpAddr>) -> Self {
        let mut all = Self::default();
        for last in addresses.map(|&address| Self::of(address)) {
            all.0[usize::from(last / 64)] |= 1 << (last % 64);
        }
        all
    }

    #[inline(always)]
    pub(super) const fn holds(&self, address: IpAddr) -> bool {
        let last = Self::of(address);
        self.0[(last / 64) as usize] >> (last % 64) & 1 == 1
    }
}

/// The IPv4 address that a translator or tunnel will send the packet to: NAT64 (RFC 6052, the
/// well-known prefix), 6to4 (RFC 3056), Teredo (RFC 4380: the client's address, stored inverted).
const fn embedded(outer: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = outer.to_bits();
    if bits >> 32 == 0x0064_ff9b_0000_0000_0000_0000 {
        return Some(Ipv4Addr::from_bits(bits as u32));
    }
    if bits >> 112 == 0x2002 {
        return Some(Ipv4Addr::from_bits((bits >> 80) as u32));
    }
    if bits >> 96 == 0x2001_0000 {
        return Some(Ipv4Addr::from_bits(!(bits as u32)));
    }
    None
}

/// How a canonical address stands, by itself.
#[must_use]
#[inline]
pub fn address_kind(address: IpAddr) -> AddressKind {
    match address {
        IpAddr::V4(v4) => {
            let bits = v4.to_bits();
            if !V4_FIRST[(bits >> 24) as usize] {
                return AddressKind::Ordinary;
            }
            let holds =
                |&&(net, len, _): &&(u32, u32, AddressKind)| (bits ^ net) >> (32 - len) == 0;
            V4.iter().find(holds).map_or(AddressKind::Ordinary, |&(_, _, kind)| kind)
        }
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            let holds =
                |&&(net, len, _): &&(u128, u32, AddressKind)| (bits ^ net) >> (128 - len) == 0;
            let listed = V6_FIRST[(bits >> 120) as usize];
            match listed.then(|| V6.iter().find(holds)).flatten() {
                Some(&(_, _, kind)) => kind,
                None if bits >> 125 != 1 => AddressKind::Special,
                None if is_allocated(bits) => AddressKind::Ordinary,
                None => AddressKind::Unallocated,
            }
        }
    }
}

/// Whether IANA has given the space around an IPv6 address to a registry.
#[inline]
const fn is_allocated(bits: u128) -> bool {
    let block = (bits >> BLOCK_SHIFT) as usize;
    if block < FIRST_BLOCK || block - FIRST_BLOCK >= BLOCKS.len() {
        return false;
    }
    match BLOCKS[block - FIRST_BLOCK] {
        Block::Free => false,
        Block::Whole => true,
        Block::Part => {
            let mut at = 0;
            while at < ALLOCATED_V6.len() {
                let (net, len) = ALLOCATED_V6[at];
                if (bits ^ net) >> (128 - len) == 0 {
                    return true;
                }
                at += 1;
            }
            false
        }
    }
}

/// How much of a /12 is allocated.
#[derive(Clone, Copy)]
enum Block {
    Free,
    Part,
    Whole,
}

const BLOCK_SHIFT: u32 = 128 - 12;

/// The first /12 of 2000::/3.
const FIRST_BLOCK: usize = 0x200;

/// Each /12 of 2000::/3, so that most addresses are settled without going through [`ALLOCATED_V6`].
const BLOCKS: [Block; 0x200] = {
    let mut blocks = [Block::Free; 0x200];
    let mut at = 0;
    while at < ALLOCATED_V6.len() {
        let (net, len) = ALLOCATED_V6[at];
        blocks[(net >> BLOCK_SHIFT) as usize - FIRST_BLOCK] =
            if len == 12 { Block::Whole } else { Block::Part };
        at += 1;
    }
    blocks
};

/// Whether an entry of the list begins with this byte: most addresses are settled by it, and going
/// through the lists is the dearer part of a verdict.
const V4_FIRST: [bool; 256] = {
    let mut first = [false; 256];
    let mut at = 0;
    while at < V4.len() {
        let (net, len, _) = V4[at];
        let mut byte = (net >> 24) as usize;
        while byte <= ((net | ones_v4(len)) >> 24) as usize {
            first[byte] = true;
            byte += 1;
        }
        at += 1;
    }
    first
};

/// As [`V4_FIRST`].
const V6_FIRST: [bool; 256] = {
    let mut first = [false; 256];
    let mut at = 0;
    while at < V6.len() {
        let (net, len, _) = V6[at];
        let mut byte = (net >> 120) as usize;
        while byte <= ((net | ones_v6(len)) >> 120) as usize {
            first[byte] = true;
            byte += 1;
        }
        at += 1;
    }
    first
};

/// IPv4: first match counts, so hosts stand before the networks around them.
const V4: &[(u32, u32, AddressKind)] = &[
    (v4([127, 0, 0, 0]), 8, AddressKind::Loop),
    (v4([169, 254, 169, 254]), 32, AddressKind::Guard), // AWS, Azure, GCP, OCI and most others
    (v4([169, 254, 170, 2]), 32, AddressKind::Guard),   // AWS ECS task credentials
    (v4([169, 254, 170, 23]), 32, AddressKind::Guard),  // AWS EKS pod identity
    (v4([169, 254, 42, 42]), 32, AddressKind::Guard),   // Scaleway
    (v4([100, 100, 100, 200]), 32, AddressKind::Guard), // Alibaba Cloud
    (v4([168, 63, 129, 16]), 32, AddressKind::Guard),   // Azure WireServer
    (v4([192, 0, 0, 192]), 32, AddressKind::Guard),     // Oracle Cloud, classic
    (v4([0, 0, 0, 0]), 8, AddressKind::Guard),
    (v4([224, 0, 0, 0]), 3, AddressKind::Guard), // multicast and 240.0.0.0/4
    (v4([10, 0, 0, 0]), 8, AddressKind::Private),
    (v4([100, 64, 0, 0]), 10, AddressKind::Private),
    (v4([169, 254, 0, 0]), 16, AddressKind::Private),
    (v4([172, 16, 0, 0]), 12, AddressKind::Private),
    (v4([192, 168, 0, 0]), 16, AddressKind::Private),
    (v4([192, 0, 0, 0]), 24, AddressKind::Special), // IETF protocol assignments
    (v4([192, 0, 2, 0]), 24, AddressKind::Special), // documentation
    (v4([192, 31, 196, 0]), 24, AddressKind::Special), // AS112
    (v4([192, 52, 193, 0]), 24, AddressKind::Special), // AMT
    (v4([192, 88, 99, 0]), 24, AddressKind::Special), // 6to4 relays
    (v4([192, 175, 48, 0]), 24, AddressKind::Special), // AS112
    (v4([198, 18, 0, 0]), 15, AddressKind::Special), // benchmarking
    (v4([198, 51, 100, 0]), 24, AddressKind::Special), // documentation
    (v4([203, 0, 113, 0]), 24, AddressKind::Special), // documentation
];

/// IPv6: the same. What lies outside 2000::/3 and is not listed is [`AddressKind::Special`] too.
const V6: &[(u128, u32, AddressKind)] = &[
    (1, 128, AddressKind::Loop),
    (0, 96, AddressKind::Guard),
    (v6([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254]), 128, AddressKind::Guard), // AWS
    (v6([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x23]), 128, AddressKind::Guard),  // AWS EKS pod identity
    (v6([0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254]), 128, AddressKind::Guard), // GCP
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0]), 8, AddressKind::Guard),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0]), 7, AddressKind::Private),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0]), 10, AddressKind::Private),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0]), 23, AddressKind::Special), // IETF protocol assignments
    (v6([0x2001, 0x0db8, 0, 0, 0, 0, 0, 0]), 32, AddressKind::Special), // documentation
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0]), 16, AddressKind::Special), // 6to4, judged on the inner address
    (v6([0x2620, 0x004f, 0x8000, 0, 0, 0, 0, 0]), 48, AddressKind::Special), // AS112
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0]), 20, AddressKind::Special), // documentation
];

/// What IANA has given to the five registries, ascending and none longer than a /23: "IPv6 Global Unicast
/// Address Assignments" as of 2024-11-01, less what [`V6`] holds. IANA gives away one block in some years.
/// What it gives after that day is nobody's here until a later version, or a `[[place]]`, says otherwise.
const ALLOCATED_V6: &[(u128, u32)] = &[
    (block(0x2001, 0x0200), 23),
    (block(0x2001, 0x0400), 23),
    (block(0x2001, 0x0600), 23),
    (block(0x2001, 0x0800), 22),
    (block(0x2001, 0x0c00), 23),
    (block(0x2001, 0x0e00), 23),
    (block(0x2001, 0x1200), 23),
    (block(0x2001, 0x1400), 22),
    (block(0x2001, 0x1800), 23),
    (block(0x2001, 0x1a00), 23),
    (block(0x2001, 0x1c00), 22),
    (block(0x2001, 0x2000), 19),
    (block(0x2001, 0x4000), 23),
    (block(0x2001, 0x4200), 23),
    (block(0x2001, 0x4400), 23),
    (block(0x2001, 0x4600), 23),
    (block(0x2001, 0x4800), 23),
    (block(0x2001, 0x4a00), 23),
    (block(0x2001, 0x4c00), 23),
    (block(0x2001, 0x5000), 20),
    (block(0x2001, 0x8000), 19),
    (block(0x2001, 0xa000), 20),
    (block(0x2001, 0xb000), 20),
    (block(0x2003, 0x0000), 18),
    (block(0x2400, 0x0000), 12),
    (block(0x2410, 0x0000), 12),
    (block(0x2600, 0x0000), 12),
    (block(0x2610, 0x0000), 23),
    (block(0x2620, 0x0000), 23),
    (block(0x2630, 0x0000), 12),
    (block(0x2800, 0x0000), 12),
    (block(0x2a00, 0x0000), 12),
    (block(0x2a10, 0x0000), 12),
    (block(0x2c00, 0x0000), 12),
];

const fn block(first: u16, second: u16) -> u128 {
    v6([first, second, 0, 0, 0, 0, 0, 0])
}

const fn v4(octets: [u8; 4]) -> u32 {
    u32::from_be_bytes(octets)
}

const fn v6(segments: [u16; 8]) -> u128 {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Addr::new(a, b, c, d, e, f, g, h).to_bits()
}

/// The special-purpose prefixes as `(first, last, kind)`, in no order, for the table builder:
/// no table is asked about them.
pub fn special_v4() -> impl Iterator<Item = (u32, u32, AddressKind)> {
    V4.iter().map(|&(net, len, kind)| (net, net | ones_v4(len), kind))
}

/// As [`special_v4`]; of the space outside 2000::/3 the whole is given, and within it what IANA has given
/// to no registry.
pub fn special_v6() -> impl Iterator<Item = (u128, u128, AddressKind)> {
    let first = block(0x2000, 0);
    let last = block(0x4000, 0) - 1;
    let outside =
        [(0, first - 1, AddressKind::Special), (last + 1, u128::MAX, AddressKind::Special)];
    let listed = V6.iter().map(|&(net, len, kind)| (net, net | ones_v6(len), kind));
    let starts = std::iter::once(first)
        .chain(ALLOCATED_V6.iter().map(|&(net, len)| (net | ones_v6(len)) + 1));
    let ends = ALLOCATED_V6.iter().map(|&(net, _)| net - 1).chain([last]);
    let free = starts.zip(ends).filter(|(first, last)| first <= last);
    let free = free.map(|(first, last)| (first, last, AddressKind::Unallocated));
    listed.chain(outside).chain(free)
}

const fn ones_v4(len: u32) -> u32 {
    match u32::MAX.checked_shr(len) {
        Some(ones) => ones,
        None => 0,
    }
}

const fn ones_v6(len: u32) -> u128 {
    match u128::MAX.checked_shr(len) {
        Some(ones) => ones,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stands(text: &str) -> AddressKind {
        target(text.parse().unwrap()).kind
    }

    #[test]
    fn every_class_is_told_at_its_edges() {
        use AddressKind::{Guard, Loop, Ordinary, Private, Special, Unallocated};
        for (text, expected) in [
            ("0.255.255.255", Guard),
            ("1.0.0.0", Ordinary),
            ("9.255.255.255", Ordinary),
            ("10.0.0.0", Private),
            ("100.63.255.255", Ordinary),
            ("100.127.255.255", Private),
            ("100.128.0.0", Ordinary),
            ("126.255.255.255", Ordinary),
            ("127.255.255.255", Loop),
            ("169.254.169.254", Guard),
            ("169.254.169.253", Private),
            ("172.32.0.0", Ordinary),
            ("192.0.2.1", Special),
            ("192.0.3.0", Ordinary),
            ("198.17.255.255", Ordinary),
            ("198.19.255.255", Special),
            ("223.255.255.255", Ordinary),
            ("224.0.0.0", Guard),
            ("255.255.255.255", Guard),
            ("::", Guard),
            ("::1", Loop),
            ("::a.b:1", Special),
            ("fd00:ec2::254", Guard),
            ("fd00:ec2::255", Private),
            ("fec0::1", Special),
            ("ff02::1", Guard),
            ("2001:1ff:ffff::", Special),
            ("2001:200::", Ordinary),
            ("2001:1000::1", Unallocated),
            ("2001:3fff:ffff::", Ordinary),
            ("2003:3fff:ffff::", Ordinary),
            ("2003:4000::", Unallocated),
            ("23ff:ffff::", Unallocated),
            ("2400::", Ordinary),
            ("241f:ffff::", Ordinary),
            ("2420::", Unallocated),
            ("2610:1ff:ffff::", Ordinary),
            ("2610:200::", Unallocated),
            ("2a1f:ffff::", Ordinary),
            ("2a20::", Unallocated),
            ("2d00::1", Unallocated),
            ("3800::1", Unallocated),
            ("3ffe::1", Unallocated),
            ("2001:db8::1", Special),
            ("2a00::1", Ordinary),
            ("4000::1", Special),
            ("64:ff9b:1::a00:1", Special),
        ] {
            let Ok(address) = text.parse() else { continue };
            assert_eq!(target(address).kind, expected, "{text}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        assert_eq!(stands("::ffff:10.0.0.1"), AddressKind::Private);
        assert_eq!(stands("::ffff:127.0.0.1"), AddressKind::Loop);
        let mapped = target("::ffff:192.0.43.8".parse().unwrap());
        assert_eq!((mapped.judged, mapped.outer), ("192.0.43.8".parse().unwrap(), None));
    }

    #[test]
    fn an_embedded_address_is_judged_and_guarded() {
        let nat64 = target("64:ff9b::808:808".parse().unwrap());
        assert_eq!(nat64.judged, "8.8.8.8".parse::<IpAddr>().unwrap());
        assert!(nat64.outer.is_some());
        assert_eq!(target("2002:808:808::1".parse().unwrap()).judged, nat64.judged);
        assert_eq!(target("2001:0:1:2::f7f7:f7f7".parse().unwrap()).judged, nat64.judged);
        assert_eq!(stands("64:ff9b::a00:1"), AddressKind::Guard);
        assert_eq!(stands("2002:c612:1::1"), AddressKind::Guard);
        assert_eq!(stands("2001:0:a00:1::80f6:f6f6"), AddressKind::Loop);
    }
}
