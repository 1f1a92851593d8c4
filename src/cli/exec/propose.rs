//! The rules that a run would have needed, as a policy file that `schengate check` takes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io;
use std::net::IpAddr;

use super::policy::Origin;
use super::summary::{Fate, Key, Summary};

/// Reasons that a rule by name or address answers. The others are of the connection itself: a name that
/// is not the address's, a first flight that is broken, an address that nothing opens, a limit.
const ANSWERED: [&str; 8] =
    ["outside", "law", "operator", "unknown", "disputed", "anycast", "stale", "private"];

/// The policy of the run, and behind it a rule for each destination that it refused, or would have.
///
/// # Errors
/// The policy's file cannot be read any more.
pub(super) fn proposal(origin: &Origin, summary: &Summary) -> io::Result<String> {
    let mut text = origin.text()?;
    let mut wanted: BTreeMap<Destination, Wanted> = BTreeMap::new();
    let mut left = BTreeSet::new();
    for (key, _) in summary.rows.iter() {
        let Some(reason) = refused(key) else { continue };
        let destination = Destination::of(key);
        match destination.filter(|_| ANSWERED.contains(&reason)) {
            Some(destination) => {
                let wanted = wanted.entry(destination).or_default();
                wanted.ports.extend(key.port);
                wanted.reasons.insert(reason.to_owned());
                wanted.places.extend(key.location.iter().cloned());
                wanted.law.extend(key.law.iter().cloned());
            }
            None => {
                left.insert(format!("{}: {reason}", super::show::plain(&whom(key))));
            }
        }
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    // Into a text nothing fails.
    let told = match wanted.len() {
        0 => "# Nothing was refused, or would have been, that a rule answers.",
        _ => {
            "# What this run would have needed. Nobody has judged whether it may be: take out what may\n\
              # not, and give each of the others a ground (`basis`), or an `owner` and an end (`until`)."
        }
    };
    writeln!(text, "\n{told}").ok();
    for reason in left {
        writeln!(text, "# No rule by name or address answers this: {reason}").ok();
    }
    let mut names = BTreeSet::new();
    for (destination, wanted) in &wanted {
        destination.rule(wanted, &mut names, &mut text);
    }
    Ok(text)
}

/// Why a destination was refused, or would have been.
fn refused(key: &Key) -> Option<&str> {
    let is_refused = key.fate == Fate::Refused || key.would.as_deref() == Some("block");
    key.reason.as_deref().filter(|_| is_refused)
}

fn whom(key: &Key) -> String {
    let address = || key.address.map(|address| address.to_string());
    key.host.clone().or_else(address).unwrap_or_else(|| "no destination".to_owned())
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Destination {
    Name(String),
    Address(IpAddr),
}

#[derive(Debug, Default)]
struct Wanted {
    ports: BTreeSet<u16>,
    reasons: BTreeSet<String>,
    places: BTreeSet<String>,
    law: BTreeSet<String>,
}

impl Destination {
    fn of(key: &Key) -> Option<Self> {
        let address = || key.address.map(|address| Self::Address(address.ip()));
        key.host.clone().map(Self::Name).or_else(address)
    }

    fn rule(&self, wanted: &Wanted, names: &mut BTreeSet<String>, text: &mut String) {
        let (word, key, value) = match self {
            Self::Name(host) => (host.clone(), "host", host.clone()),
            Self::Address(ip) => (ip.to_string(), "to", ipnet::IpNet::from(*ip).to_string()),
        };
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let plain: String = word.chars().map(plain).take(60).collect();
        let mut name = format!("exec-{}", plain.trim_matches('-').to_lowercase());
        while !names.insert(name.clone()) {
            name.push('x');
        }
        let list = |all: &BTreeSet<String>| {
            let all: Vec<_> = all.iter().map(String::as_str).collect();
            if all.is_empty() { "unknown".to_owned() } else { all.join(" ") }
        };
        let reason = format!(
            "refused as {}; it may be in {}, under the law of {}",
            list(&wanted.reasons),
            list(&wanted.places),
            list(&wanted.law)
        );
        let text_of = |text: &str| toml::Value::from(text).to_string();
        writeln!(text, "\n[[rule]]\nname   = {}", text_of(&name)).ok();
        writeln!(text, "{key:<6} = [{}]", text_of(&value)).ok();
        if !wanted.ports.is_empty() {
            let ports: Vec<_> = wanted.ports.iter().map(u16::to_string).collect();
            writeln!(text, "port   = [{}]", ports.join(", ")).ok();
        }
        writeln!(text, "action = \"allow\"\nreason = {}", text_of(&reason)).ok();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::summary::tests::line;
    use super::*;
    use crate::control::config;

    #[test]
    fn what_is_proposed_loads_and_permits_what_was_refused_and_nothing_that_no_rule_answers() {
        let mut summary = Summary::default();
        let refused = |host: Option<&str>, reason: &str| {
            line(&json!({
                "event": "refused", "host": host, "destination": "203.0.113.7:443", "verdict": "block",
                "reason": reason, "location": ["US"], "law": ["US"], "end": "refused",
            }))
        };
        summary.add(refused(Some("refused.example"), "outside"));
        summary.add(refused(None, "unknown"));
        summary.add(refused(Some("wrong.example"), "mismatch"));
        summary.add(line(&json!({ "host": "fine.example" })));
        summary.add(line(&json!({ "host": "would.example", "verdict": "log", "reason": "law",
            "would": "block" })));
        let words = "permit=eea".to_owned();
        let text = "schema = 1\n[policy]\npermit = [\"eea\"]".to_owned();
        let origin = Origin::Words { words, text };
        let proposed = proposal(&origin, &summary).unwrap();
        let loaded = config::parse(&proposed, None).unwrap_or_else(|e| panic!("{e}\n{proposed}"));
        // That they have no ground yet is what is left to be done.
        for lint in &loaded.lints {
            assert!(lint.to_string().contains("has no end and no basis"), "{lint}");
        }
        let names: Vec<_> = loaded.config.rules.iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(names, ["exec-refused-example", "exec-would-example", "exec-203-0-113-7"]);
        assert!(
            proposed.contains("# No rule by name or address answers this: wrong.example: mismatch")
        );
    }

    #[test]
    fn nothing_that_was_refused_makes_no_rule() {
        let origin = Origin::File(None);
        let proposed = proposal(&origin, &Summary::default()).unwrap();
        assert!(config::parse(&proposed, None).unwrap().config.rules.is_empty());
    }
}
