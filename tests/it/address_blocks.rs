//! Space that nobody holds is in no country, whatever a table says of it: each address block that IANA
//! has given to no registry, by IANA's own registries, and pools that a registry has given to nobody.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use jiff::Timestamp;
use schengate::control::compile::Compiler;
use schengate::control::{config, data};
use schengate::identify::Protocol;
use schengate::policy::{
    Action, AddressKind, Claim, Policy, Question, Reason, Transport, address_kind,
};

const BLOCKS: &str = include_str!("address_blocks.csv");

/// A block of the registries, and whether it is allocated.
fn blocks() -> impl Iterator<Item = (IpNet, bool)> {
    let rows = BLOCKS.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.map(|row| {
        let columns: Vec<&str> = row.split(',').collect();
        let [prefix, .., status] = columns.as_slice() else { panic!("{row}") };
        (prefix.parse().unwrap(), *status == "ALLOCATED")
    })
}

/// What of 2000::/3 is in no allocated block, as first and last address.
fn free() -> Vec<(u128, u128)> {
    let allocated = blocks().filter(|&(_, allocated)| allocated);
    let mut spans: Vec<(u128, u128)> = allocated
        .filter_map(|(net, _)| match net {
            IpNet::V6(net) => Some((net.network().to_bits(), net.broadcast().to_bits())),
            IpNet::V4(_) => None,
        })
        .collect();
    spans.sort_unstable();
    let unicast: Ipv6Net = "2000::/3".parse().unwrap();
    let mut free = Vec::new();
    let mut next = unicast.network().to_bits();
    for (first, last) in spans {
        if next < first {
            free.push((next, first - 1));
        }
        next = last + 1;
    }
    free.push((next, unicast.broadcast().to_bits()));
    free
}

/// Both ends of a span, and addresses between, the same in every run.
fn samples((first, last): (u128, u128)) -> impl Iterator<Item = Ipv6Addr> {
    let mut state = first ^ last;
    let between = (0..64).map(move |_| {
        state = state.wrapping_mul(0xda94_2042_e4dd_58b5).wrapping_add(0x5851_f42d_4c95_7f2d);
        first + (state.rotate_left(64)) % (last - first + 1)
    });
    [first, last].into_iter().chain(between).map(Ipv6Addr::from_bits)
}

fn compiled(text: &str) -> Policy {
    let loaded = config::parse(text, None).unwrap_or_else(|faults| panic!("{faults}"));
    let sources = data::load(&loaded.config.data).expect("its tables");
    let now = Timestamp::now();
    Compiler::new(loaded.config, sources, text, Vec::new(), now).policy_at(now)
}

/// A policy that is as open as one can be made, over a table that knows every address.
fn everywhere(folder: &std::path::Path) -> Policy {
    let table = folder.join("everywhere.csv");
    let all = "0.0.0.0,255.255.255.255,CH\n::,ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff,CH\n";
    fs::write(&table, all).unwrap();
    compiled(&format!(
        "schema = 1\n[policy]\npermit = [\"CH\"]\n[data]\ncountry = [{:?}, \"embedded\"]\n\
         [[rule]]\nname = \"open\"\nlocation = [\"CH\"]\naction = \"allow\"\n",
        table.display().to_string()
    ))
}

#[track_caller]
fn is_nowhere(policy: &Policy, address: IpAddr) {
    let question = Question {
        client: None,
        destination: (address, 443).into(),
        transport: Transport::Tcp,
        protocol: Protocol::Tls,
        name: Claim::Unread,
        ech: false,
    };
    let verdict = policy.decide(&question);
    let codes: Vec<&str> = policy.address_info(address).codes.iter().map(|c| c.code()).collect();
    assert_eq!(codes, [] as [&str; 0], "{address}");
    assert_eq!((verdict.action(), verdict.reason()), (Action::Block, Reason::Unknown), "{address}");
}

#[test]
fn space_that_iana_gave_to_no_registry_is_unknown_whatever_a_table_says() {
    let folder = tempfile::tempdir().unwrap();
    let embedded = compiled("schema = 1\n[policy]\npermit = [\"eea\", \"gdpr-adequacy\"]\n");
    let open = everywhere(folder.path());
    let free = free();
    assert!(free.len() > 10, "{free:?}");
    let mut asked = 0;
    for address in free.iter().flat_map(|&span| samples(span)) {
        is_nowhere(&embedded, address.into());
        is_nowhere(&open, address.into());
        asked += 1;
    }
    assert_eq!(asked, 66 * free.len());
    for (net, _) in blocks().filter(|&(_, allocated)| !allocated) {
        assert_ne!(address_kind(net.addr()), AddressKind::Ordinary, "{net}");
        assert_ne!(address_kind(net.broadcast()), AddressKind::Ordinary, "{net}");
    }
}

#[test]
fn no_allocated_block_is_taken_for_free() {
    let mut ordinary = 0;
    for (net, _) in blocks().filter(|&(net, allocated)| allocated && net.addr().is_ipv6()) {
        let IpNet::V6(span) = net else { continue };
        for address in samples((span.network().to_bits(), span.broadcast().to_bits())) {
            let kind = address_kind(address.into());
            // IETF protocol assignments, documentation and 6to4 are allocated and hold nobody.
            let special = ["2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48"];
            let special =
                special.iter().any(|net| net.parse::<Ipv6Net>().unwrap().contains(&address));
            assert_eq!(kind == AddressKind::Ordinary, !special, "{address} of {net}");
            ordinary += usize::from(!special);
        }
    }
    assert!(ordinary > 30 * 60, "{ordinary}");
    // All that a registry has registered lies in allocated space.
    let registrant = data::embedded_registrant().expect("the embedded table").ranges;
    for (first, last, _) in registrant.v6 {
        for address in [first, last].map(Ipv6Addr::from_bits) {
            assert_ne!(address_kind(address.into()), AddressKind::Unallocated, "{address}");
        }
    }
}

#[test]
fn pools_that_a_registry_gave_to_nobody_are_in_no_embedded_table() {
    let embedded = compiled("schema = 1\n[policy]\npermit = [\"eea\", \"gdpr-adequacy\"]\n");
    let registrant = data::embedded_registrant().expect("the embedded table").ranges;
    let mut pools: Vec<Ipv4Addr> = Vec::new();
    let mut next = 0;
    for (first, last, _) in registrant.v4 {
        // A pool of at least a /13 between two registrations.
        if first - next >= 1 << 19
            && address_kind(Ipv4Addr::from_bits(next).into()) == AddressKind::Ordinary
        {
            pools.extend([next, next + (first - next) / 2, first - 1].map(Ipv4Addr::from_bits));
        }
        next = last.saturating_add(1);
    }
    assert!(pools.iter().any(|at| at.octets()[0] == 102), "AFRINIC's pool: {pools:?}");
    for address in pools {
        is_nowhere(&embedded, address.into());
    }
    // Of IPv6 the same: DB-IP places these in Switzerland, or where the registry has its seat.
    for address in ["2c04::1", "260d::1", "2803:8b0::1", "2806:483::1", "2610:1ff:ffff::1"] {
        is_nowhere(&embedded, address.parse().unwrap());
    }
}
