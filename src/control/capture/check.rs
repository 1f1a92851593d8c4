//! Whether the fences and the rules still stand: other software switches forwarding on, flushes
//! rules, or takes packets past every hook, and nobody would notice.
//!
//! Looked at as the process is permitted to: routing rules and the switches of interfaces are shown
//! to everybody, tables of the firewall to CAP_NET_ADMIN alone.

use std::io;
use std::ops::RangeInclusive;

use super::delivery::Delivery;
use super::family::{Family, families};
use super::fault::CaptureFault;
use super::finding::{Check, Finding};
use super::matches::NEAR;
use super::model::{Capture, Form};
use super::program::Nft;
use super::{lane, routing, shortcut};
use crate::control::config::{Lane, Listen, ListenMode, Shortcut};
use crate::sys::{self, Switches};

/// What should stand for the listeners of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fences {
    /// What is in the way of packets; the rules that stand name the interfaces.
    delivery: Delivery,
    /// The kernel forwards what bears a mark.
    forwards: bool,
    /// The queues of the lane, where there is one.
    lane: Option<RangeInclusive<u16>>,
}

impl Fences {
    /// What `capture up` sets for these listeners; `None` where none of them is captured for.
    #[must_use]
    pub fn new(listen: &[Listen], shortcut: Shortcut, lane: Option<&Lane>) -> Option<Self> {
        let captured = listen.iter().filter(|listen| listen.mode != ListenMode::Proxy);
        captured.clone().next()?;
        let capture = Capture::new(Form::Gateway, listen).ok();
        let udp = listen.iter().rev().filter_map(|listen| listen.udp);
        let capture = capture.map(|capture| udp.fold(capture, Capture::with_udp));
        let delivery = capture.as_ref().map(Delivery::of).unwrap_or_default();
        let forwards = shortcut != Shortcut::Off || lane.is_some();
        Some(Self { delivery, forwards, lane: lane.map(|lane| lane.queues.clone()) })
    }

    /// Looks at everything once.
    #[must_use]
    pub fn look(&self, nft: &Nft) -> Vec<(Check, Finding)> {
        let list = |what: &str| nft.shown(what);
        let chains = list("list chains");
        let is_host = chains.as_ref().is_ok_and(|chains| is_host_form(chains));
        let table = list("list table inet schengate");
        let interfaces = table.as_ref().ok().map(|table| named(table));
        let mut found = vec![(Check::Rules, rules(&chains, || table))];
        if is_host {
            // A host's own traffic is not forwarded, and no packet is delivered by mark.
            return found;
        }
        let guard = || list("list table inet schengate_guard");
        found.push((Check::Guard, guard_stands(&chains, guard, self.forwards)));
        found.push((Check::Offload, offload(list("list flowtables"))));
        let fence = |family| routing::fence_fault(family, self.forwards);
        found.push((Check::Fence, first_fault(families(), fence)));
        let routed = &self.delivery.routed;
        found.push((Check::Routing, first_fault(routed.iter().copied(), routing::way_fault)));
        let switches: Vec<_> =
            families().map(|family| sys::switches(family == Family::V6)).collect();
        if let Some(queues) = &self.lane {
            let listed = list(&format!("-t list table inet {}", Lane::TABLE));
            found.push((Check::Lane, lane_stands(&chains, listed, queues)));
        }
        if !self.forwards {
            let others = others(&found);
            found.push((Check::Forwarding, forwarding(&switches, &others)));
        }
        if !routed.is_empty() {
            found.push((Check::ReversePath, reverse_path(&switches)));
        }
        found.extend(Delivery { interfaces, ..self.delivery.clone() }.look());
        found
    }
}

/// What is wrong first.
fn first_fault(
    families: impl Iterator<Item = Family>,
    look: impl Fn(Family) -> io::Result<Option<String>>,
) -> Finding {
    for family in families {
        match look(family) {
            Ok(None) => {}
            Ok(Some(how)) => return Finding::Broken(how),
            Err(error) => return Finding::Unseen(format!("routing rules: {error}")),
        }
    }
    Finding::Intact
}

/// The clients' interfaces that the rules name; none where every one counts.
fn named(table: &str) -> Vec<String> {
    let chain = table.split("\tchain prerouting {").nth(1).unwrap_or_default();
    let rules = chain.lines().take_while(|line| *line != "\t}").map(str::trim);
    let names = rules.filter_map(|rule| rule.strip_prefix("iifname != ")?.strip_suffix(" return"));
    let names = names.flat_map(|names| names.split('"').skip(1).step_by(2));
    names.filter(|name| *name != NEAR).map(str::to_owned).collect()
}

/// What of the other fences was seen to stand, in words.
fn others(found: &[(Check, Finding)]) -> String {
    let of = |wanted: Check| found.iter().find(|(check, _)| *check == wanted).map(|(_, it)| it);
    let (guard, fence) = (of(Check::Guard), of(Check::Fence));
    match (guard, fence) {
        (Some(Finding::Intact), Some(Finding::Intact)) => "the guard and the routing rules hold",
        (Some(Finding::Intact), _) => "the guard alone holds",
        (Some(Finding::Unseen(_)), Some(Finding::Intact)) => {
            "the routing rules hold; the guard is not seen from here"
        }
        (_, Some(Finding::Intact)) => "the routing rules alone hold",
        (Some(Finding::Unseen(_)), _) => "whether the guard holds is not seen from here",
        _ => "NEITHER THE GUARD NOR THE ROUTING RULES HOLD",
    }
    .to_owned()
}

/// Whether the capture that stands is of a host's own traffic.
fn is_host_form(chains: &str) -> bool {
    table_of(chains, "schengate").is_some_and(|table| table.contains("chain leave {"))
}

/// The part of `nft list chains` or `nft list table` that is about a table of ours.
fn table_of<'a>(listed: &'a str, name: &str) -> Option<&'a str> {
    let head = format!("table inet {name} {{");
    listed.split("\n}").find(|table| table.trim_start().starts_with(&head))
}

type Listed = Result<String, CaptureFault>;

fn rules(chains: &Listed, list: impl FnOnce() -> Listed) -> Finding {
    let chains = match chains {
        Ok(chains) => chains,
        Err(fault) => return Finding::Unseen(fault.to_string()),
    };
    if table_of(chains, "schengate").is_none() {
        return Finding::Broken("no table inet schengate: `schengate capture up` sets it".into());
    }
    match list() {
        Err(fault) => Finding::Unseen(fault.to_string()),
        Ok(table) => match unfenced(&table) {
            None => Finding::Intact,
            Some(chain) => {
                Finding::Broken(format!("the chain {chain} no longer drops what is left"))
            }
        },
    }
}

/// The first filter chain of the capture that does not end as it should: in a drop, or where what
/// has no business here is dropped.
fn unfenced(table: &str) -> Option<String> {
    let chains = table.split("\tchain ").skip(1);
    let mut filters =
        chains.filter(|chain| chain.contains("type filter") || chain.starts_with("astray {"));
    let open = filters.find(|chain| {
        let body = chain.split("\n\t}").next().unwrap_or_default();
        let last = body.lines().next_back().unwrap_or_default().trim_end();
        let way_out = if chain.starts_with("sources {") { " goto astray" } else { " drop" };
        !last.ends_with(way_out)
    })?;
    Some(open.split(' ').next().unwrap_or_default().to_owned())
}

fn guard_stands(chains: &Listed, list: impl FnOnce() -> Listed, shortcut: bool) -> Finding {
    let chains = match chains {
        Ok(chains) => chains,
        Err(fault) => return Finding::Unseen(fault.to_string()),
    };
    let hook = "type filter hook forward priority filter; policy drop;";
    match table_of(chains, "schengate_guard") {
        None => return Finding::Broken("no table inet schengate_guard: reload the guard".into()),
        Some(table) if !table.contains(hook) => {
            return Finding::Broken("the guard's chain no longer drops".into());
        }
        Some(_) => {}
    }
    match list() {
        Err(fault) => Finding::Unseen(fault.to_string()),
        Ok(table) => {
            let mark = format!("meta mark {:#010x} accept", shortcut::MARK);
            let is_ours = |rule: &str| shortcut && rule == mark;
            let opens = |rule: &&str| {
                ["accept", "jump", "goto", "return", "queue"]
                    .iter()
                    .any(|word| rule.split(' ').any(|said| said == *word))
            };
            match table.lines().map(str::trim).find(|rule| opens(rule) && !is_ours(rule)) {
                None => Finding::Intact,
                Some(rule) => Finding::Broken(format!("the guard has a rule more: {rule}")),
            }
        }
    }
}

fn lane_stands(chains: &Listed, listed: Listed, queues: &RangeInclusive<u16>) -> Finding {
    match (chains, listed) {
        (Err(fault), _) => Finding::Unseen(fault.to_string()),
        (Ok(chains), _) if table_of(chains, Lane::TABLE).is_none() => Finding::Broken(format!(
            "no table inet {}: `schengate capture up` sets it",
            Lane::TABLE
        )),
        (_, Err(fault)) => Finding::Unseen(fault.to_string()),
        (_, Ok(listed)) => match lane::wrong(&listed, queues) {
            Some(how) => Finding::Broken(how),
            None => Finding::Intact,
        },
    }
}

fn offload(listed: Listed) -> Finding {
    match listed {
        Err(fault) => Finding::Unseen(fault.to_string()),
        Ok(tables) if tables.contains("flowtable ") => Finding::Broken(
            "a flow table takes packets past the guard (`nft list flowtables`)".into(),
        ),
        Ok(_) => Finding::Intact,
    }
}

type Seen = [io::Result<Vec<Switches>>];

/// The name of the first interface, in either family, that `is` so.
fn interface(seen: &Seen, is: impl Fn(&Switches) -> bool) -> Result<Option<&str>, &io::Error> {
    for family in seen {
        let interfaces = family.as_ref()?;
        if let Some(found) = interfaces.iter().find(|switches| is(switches)) {
            return Ok(Some(&found.interface));
        }
    }
    Ok(None)
}

fn forwarding(seen: &Seen, others: &str) -> Finding {
    match interface(seen, |switches| switches.forwarding) {
        Err(error) => Finding::Unseen(error.to_string()),
        Ok(None) => Finding::Intact,
        Ok(Some(name)) => Finding::Broken(format!(
            "{name} forwards: something switched it on (`schengate capture up` switches it off); {others}"
        )),
    }
}

/// The names of the interfaces that forward, of either family.
///
/// # Errors
/// They cannot be seen, and why.
pub(super) fn forwarding_interfaces() -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for family in families() {
        let seen = sys::switches(family == Family::V6)?;
        let forward = seen.into_iter().filter(|switches| switches.forwarding);
        names.extend(forward.map(|switches| switches.interface));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

fn reverse_path(seen: &Seen) -> Finding {
    match interface(seen, |switches| switches.strict) {
        Err(error) => Finding::Unseen(error.to_string()),
        Ok(None) => Finding::Intact,
        Ok(Some(name)) => Finding::Broken(format!(
            "{name} filters by strict reverse path (rp_filter=1): what is routed back by another \
             interface is dropped there and not counted; `sysctl -w net.ipv4.conf.{}.rp_filter=2`",
            name.replace('.', "/")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAINS: &str = "table inet schengate_guard {
\tchain forward {
\t\ttype filter hook forward priority filter; policy drop;
\t}
}
table inet schengate {
\tchain prerouting {
\t\ttype filter hook prerouting priority mangle; policy accept;
\t}
}
";

    fn guard(extra: &str) -> Listed {
        Ok(format!(
            "table inet schengate_guard {{\n\tchain forward {{\n\t\ttype filter hook forward \
             priority filter; policy drop;\n{extra}\t\tcounter packets 0 bytes 0 drop comment \
             \"stopped by the guard\"\n\t}}\n}}\n"
        ))
    }

    #[test]
    fn the_guard_is_missed_where_it_is_gone_or_opened() {
        let stands = |chains: &str, extra: &str, shortcut| {
            guard_stands(&Ok(chains.to_owned()), || guard(extra), shortcut)
        };
        assert_eq!(stands(CHAINS, "", false), Finding::Intact);
        let mark = "\t\tmeta mark 0x00005348 accept\n";
        assert_eq!(stands(CHAINS, mark, true), Finding::Intact);
        let gone = CHAINS.replace("schengate_guard", "somebody_else");
        let accepts = CHAINS.replace("policy drop", "policy accept");
        for (chains, extra, shortcut) in [
            (gone.as_str(), "", false),
            (accepts.as_str(), "", false),
            (CHAINS, mark, false),
            (CHAINS, "\t\tiifname \"lan0\" accept\n", true),
        ] {
            let found = stands(chains, extra, shortcut);
            assert!(matches!(found, Finding::Broken(_)), "{chains}{extra}: {found}");
        }
        let unseen = || Err(CaptureFault::NoUser { name: "nobody".into() });
        assert!(matches!(guard_stands(&unseen(), unseen, false), Finding::Unseen(_)));
    }

    #[test]
    fn a_capture_without_its_last_rule_is_broken() {
        let table = |last: &str| {
            format!(
                "table inet schengate {{\n\tchain prerouting {{\n\t\ttype filter hook prerouting \
                 priority mangle; policy accept;\n\t\tmeta l4proto tcp accept\n{last}\t}}\n}}\n"
            )
        };
        let rules = |last: &str| rules(&Ok(CHAINS.to_owned()), || Ok(table(last)));
        assert_eq!(rules("\t\tcounter packets 3 bytes 180 drop\n"), Finding::Intact);
        assert!(matches!(rules(""), Finding::Broken(_)));
        for (chain, last, whole) in [
            ("sources", "fib saddr . iif oif 0 goto astray", true),
            ("sources", "accept", false),
            ("astray", "counter name \"astray\" drop", true),
            ("astray", "accept", false),
        ] {
            let hook = "\t\ttype filter hook prerouting priority raw; policy accept;\n";
            let hook = if chain == "sources" { hook } else { "" };
            let table = format!(
                "table inet schengate {{\n\tchain {chain} {{\n{hook}\t\t{last}\n\t}}\n}}\n"
            );
            assert_eq!(unfenced(&table).is_none(), whole, "{table}");
        }
    }

    #[test]
    fn switches_that_somebody_turned_are_named_with_their_interface() {
        let one = |forwarding: bool, strict: bool| {
            let interface = "lan0".to_owned();
            vec![Ok(vec![Switches { interface, forwarding, strict }]), Ok(Vec::new())]
        };
        assert_eq!(forwarding(&one(false, true), ""), Finding::Intact);
        let found = forwarding(&one(true, false), "the guard alone holds");
        assert!(
            matches!(found, Finding::Broken(how) if how.contains("lan0") && how.contains("alone"))
        );
        assert_eq!(reverse_path(&one(true, false)), Finding::Intact);
        assert!(matches!(reverse_path(&one(false, true)), Finding::Broken(_)));
        assert!(matches!(forwarding(&[Err(io::Error::other("none"))], ""), Finding::Unseen(_)));
    }

    #[test]
    fn what_was_not_seen_is_not_said_to_hold() {
        let (broken, unseen) = (|| Finding::Broken(String::new()), || Finding::Unseen("x".into()));
        let said = |guard: Finding, fence: Finding| {
            others(&[(Check::Guard, guard), (Check::Fence, fence)])
        };
        assert_eq!(said(Finding::Intact, Finding::Intact), "the guard and the routing rules hold");
        assert_eq!(said(Finding::Intact, broken()), "the guard alone holds");
        for guard in [broken(), unseen()] {
            assert!(!said(guard.clone(), Finding::Intact).contains("guard alone"));
            assert!(!said(guard.clone(), broken()).contains("guard alone"));
            assert!(!said(guard, unseen()).contains("guard alone"));
        }
        assert!(said(unseen(), unseen()).contains("not seen"));
        assert!(said(broken(), broken()).contains("NEITHER"));
    }

    #[test]
    fn the_interfaces_are_those_that_the_rules_name() {
        let table = |rule: &str| {
            format!(
                "table inet schengate {{\n\tchain redirect_in {{\n\t\tiifname != \"other\" return\n\t}}\n\
                 \tchain prerouting {{\n\t\ttype filter hook prerouting priority mangle; policy \
                 accept;\n{rule}\t\tcounter packets 0 bytes 0 drop\n\t}}\n}}\n"
            )
        };
        assert_eq!(named(&table("\t\tiifname != { \"lan0\", \"schg-near\" } return\n")), ["lan0"]);
        assert_eq!(named(&table("\t\tiifname != \"br0.7\" return\n")), ["br0.7"]);
        assert_eq!(named(&table("")), [] as [&str; 0]);
        // What answers to a kept source need is no list of interfaces.
        let answers = "\t\tiifname != { \"lan0\" } fib daddr oifname \"lan0\" accept\n";
        assert_eq!(named(&table(answers)), [] as [&str; 0]);
    }

    #[test]
    fn the_guards_own_rules_open_nothing() {
        let rules =
            super::super::GUARD.lines().filter(|line| !line.starts_with('#')).collect::<String>();
        assert!(!rules.contains("accept"), "{rules}");
    }
}
