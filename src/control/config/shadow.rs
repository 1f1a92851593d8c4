//! Whether an earlier rule leaves a later one nothing to decide. Right before clever: what is not
//! plainly so is not said.

use ipnet::IpNet;
use jiff::Timestamp;

use super::known;
use super::model::{Config, From, Rule, ZoneList};
use crate::policy::{Action, CountrySet, HostList};

/// Pairs of values that one comparison of two conditions may look at.
const PAIRS_MAX: usize = 1 << 20;

/// Whether the rule holds for every connection, but for the time in which it holds.
pub(super) fn is_for_everything(rule: &Rule) -> bool {
    let Rule { from, host, to, location, law, operator, asn, region, port, .. } = rule;
    from.is_none()
        && host.is_none()
        && to.is_none()
        && location.is_none()
        && law.is_none()
        && operator.is_none()
        && asn.is_none()
        && region.is_none()
        && port.is_none()
        && rule.transport.is_none()
        && rule.protocol.is_none()
}

/// Whether `earlier` matches wherever and whenever `later` does, from `now` on.
pub(super) fn covers(config: &Config, earlier: &Rule, later: &Rule, now: Timestamp) -> bool {
    let blocks = |rule: &Rule| rule.action == Action::Block;
    // A block rule matches on any possibility, an allow or log rule needs all of them: one of the
    // second kind never covers one of the first where the match depends on what is possible.
    let certain = blocks(earlier) || !blocks(later);
    let depends = earlier.host.is_some()
        || earlier.location.is_some()
        || earlier.law.is_some()
        || earlier.operator.is_some()
        || earlier.asn.is_some()
        || earlier.region.is_some();
    // An allow or log rule opens a private address only through `to`.
    let private = blocks(earlier) || earlier.to.is_some() || (later.to.is_none() && !blocks(later));
    (certain || !depends)
        && private
        && spans(earlier, later)
        && within(&earlier.from, &later.from, |wide, narrow| client(config, wide, narrow))
        && within(&earlier.to, &later.to, net)
        && hosts(&earlier.host, &later.host)
        && within(&earlier.asn, &later.asn, PartialEq::eq)
        && within(&earlier.region, &later.region, PartialEq::eq)
        && within(&earlier.transport, &later.transport, PartialEq::eq)
        && within(&earlier.protocol, &later.protocol, PartialEq::eq)
        && within(&earlier.operator, &later.operator, |wide, narrow| {
            if blocks(earlier) { known::leads(wide, narrow) } else { wide == narrow }
        })
        && within(&earlier.port, &later.port, |wide, narrow| {
            wide.contains(narrow.start()) && wide.contains(narrow.end())
        })
        && countries(config, &earlier.location, &later.location, now)
        && countries(config, &earlier.law, &later.law, now)
}

fn spans(earlier: &Rule, later: &Rule) -> bool {
    let since = earlier.since.is_none_or(|start| later.since.is_some_and(|since| start <= since));
    let until = earlier.until.is_none_or(|end| later.until.is_some_and(|until| until <= end));
    since && until
}

/// Whether every value of `narrow` lies in one of `wide`; a condition that is not written holds for
/// everything.
fn within<T>(
    wide: &Option<Vec<T>>,
    narrow: &Option<Vec<T>>,
    covers: impl Fn(&T, &T) -> bool,
) -> bool {
    let (wide, narrow) = match (wide, narrow) {
        (None, _) => return true,
        (Some(_), None) => return false,
        (Some(wide), Some(narrow)) => (wide, narrow),
    };
    wide.len().saturating_mul(narrow.len()) <= PAIRS_MAX
        && narrow.iter().all(|narrow| wide.iter().any(|wide| covers(wide, narrow)))
}

fn client(config: &Config, wide: &From, narrow: &From) -> bool {
    match (wide, narrow) {
        (From::Net(wide), From::Net(narrow)) => net(wide, narrow),
        (From::Group(wide), From::Group(narrow)) => wide == narrow,
        (From::Net(wide), From::Group(narrow)) => {
            let group = config.groups.get(*narrow);
            group.is_some_and(|group| group.clients.iter().all(|client| net(wide, client)))
        }
        // A client in the prefix may be of a group with a more specific one.
        (From::Group(_), From::Net(_)) => false,
    }
}

fn net(wide: &IpNet, narrow: &IpNet) -> bool {
    wide.contains(narrow)
}

/// As [`within`], for hosts.
fn hosts(wide: &Option<HostList>, narrow: &Option<HostList>) -> bool {
    let (wide, narrow) = match (wide, narrow) {
        (None, _) => return true,
        (Some(_), None) => return false,
        (Some(wide), Some(narrow)) => (wide, narrow),
    };
    wide.len().saturating_mul(narrow.len()) <= PAIRS_MAX
        && narrow.iter().all(|narrow| wide.iter().any(|wide| wide.covers(&narrow)))
}

fn countries(
    config: &Config,
    wide: &Option<ZoneList>,
    narrow: &Option<ZoneList>,
    now: Timestamp,
) -> bool {
    let (wide, narrow) = match (wide, narrow) {
        (None, _) => return true,
        (Some(_), None) => return false,
        (Some(wide), Some(narrow)) => (wide, narrow),
    };
    let zones = &config.zones;
    let held = |list, at| -> CountrySet { zones.resolve(list, at) };
    let changes = zones.boundaries(wide).chain(zones.boundaries(narrow));
    std::iter::once(now)
        .chain(changes.filter(|&at| at > now))
        .all(|at| held(narrow, at).is_subset(held(wide, at)))
}

#[cfg(test)]
mod tests {
    use super::super::{LintKind, parse_at};

    const RULE: &str = "[[rule]]\nbasis = 'x'\n";

    /// Whether the second rule is called shadowed by the first.
    fn shadowed(first: &str, second: &str) -> bool {
        let groups = "[[group]]\nname = 'g'\nclients = ['10.1.0.0/16']\npermit = ['FR']\n\
                      [[group]]\nname = 'h'\nclients = ['10.1.1.0/24']\npermit = ['FR']\n";
        let tail =
            format!("{groups}{RULE}name = 'first'\n{first}\n{RULE}name = 'second'\n{second}\n");
        let text = format!("schema = 1\n[policy]\npermit = ['eea']\n{tail}");
        let now = "2026-11-24T12:00:00Z".parse().unwrap();
        let lints =
            parse_at(&text, None, now).unwrap_or_else(|faults| panic!("{text}\n{faults}")).lints;
        lints.iter().any(|lint| lint.kind == LintKind::Shadowed)
    }

    #[test]
    fn a_rule_that_an_earlier_one_covers_is_shadowed() {
        let block = |keys: &str| format!("action = 'block'\n{keys}");
        let allow = |keys: &str| format!("action = 'allow'\n{keys}");
        for (wide, narrow) in [
            (
                "host = ['*.example.eu']",
                "host = ['a.example.eu', '*.b.example.eu', '*.example.eu']",
            ),
            ("host = ['a.example']", "host = ['a.example']\nport = [443]"),
            ("to = ['10.0.0.0/8']", "to = ['10.0.0.0/8', '10.1.0.0/16']"),
            ("port = ['1-1000']", "port = [443, '80-90']"),
            ("from = ['10.0.0.0/8']", "from = ['g', '10.2.0.0/16']"),
            ("from = ['g']", "from = ['g']"),
            ("location = ['eea']", "location = ['eu']"),
            ("transport = ['tcp', 'udp']", "transport = ['udp']"),
            ("port = [1]\nuntil = 2027-02-01", "port = [1]\nuntil = 2027-01-01"),
            ("port = [1]\nsince = 2026-01-01", "port = [1]\nsince = 2026-02-01"),
            ("asn = [1, 2]", "asn = [2]"),
        ] {
            assert!(shadowed(&block(wide), &block(narrow)), "{wide} | {narrow}");
            assert!(shadowed(&block(wide), &allow(narrow)), "{wide} | allow {narrow}");
        }
        assert!(shadowed(
            &block("operator = ['akamai']"),
            &allow("operator = ['akamai-prolexic']")
        ));
        assert!(shadowed(&allow("host = ['*.a.example']"), &allow("host = ['x.a.example']")));
        assert!(shadowed(&allow("to = ['10.0.0.0/8']"), &block("to = ['10.1.0.0/16']")));
    }

    #[test]
    fn a_rule_that_can_still_decide_is_not_called_shadowed() {
        let block = |keys: &str| format!("action = 'block'\n{keys}");
        let allow = |keys: &str| format!("action = 'allow'\n{keys}");
        for (first, second) in [
            ("host = ['*.example.eu']", "host = ['example.eu']"),
            ("host = ['example.eu']", "host = ['*.example.eu']"),
            ("host = ['*.example.eu']", "host = ['badexample.eu']"),
            ("host = ['*.example.eu']", "port = [1]"),
            ("from = ['g']", "from = ['10.1.0.0/16']"),
            ("from = ['g']", "from = ['h']"),
            ("port = [1]\nuntil = 2027-01-01", "port = [1]"),
            ("port = [1]\nsince = 2026-02-01", "port = [1]\nsince = 2026-01-01"),
            ("location = ['eu']", "location = ['eea']"),
            // Britain leaves the first list in 2031.
            ("location = ['gdpr-adequacy']", "location = ['GB']"),
            ("operator = ['akamai-prolexic']", "operator = ['akamai']"),
        ] {
            assert!(!shadowed(&block(first), &block(second)), "{first} | {second}");
        }
        // An allow rule needs a bound name and every possibility; a block rule takes a claim and any.
        assert!(!shadowed(&allow("host = ['a.example']"), &block("host = ['a.example']")));
        assert!(!shadowed(&allow("location = ['eu']"), &block("location = ['FR']")));
        // An allow rule without `to` opens no private address.
        assert!(!shadowed(&allow("port = [443]"), &block("port = [443]")));
        assert!(!shadowed(&allow("port = [443]"), &allow("port = [443]\nto = ['10.0.0.0/8']")));
    }
}
