//! A policy in words, for those who have to answer for it and do not read its file.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::control::config::{Config, From, Group, Rule, Term, ZoneList};
use crate::policy::{Action, Causes, Country, CountrySet, HostRef, Mode};
use crate::report::world;

/// Rules that are told; of more, how many they are.
const RULES_MAX: usize = 300;

/// Members of a list that are told.
const LISTED: usize = 6;

/// Causes in the order of the policy file, each with what it means.
fn causes(on: &Causes) -> [(&'static str, Action, &'static str); 11] {
    [
        ("outside", on.outside, "the destination lies outside the permitted countries"),
        ("law", on.law, "a law reaches its operator that is not permitted"),
        ("operator", on.operator, "nobody knows whose network it is, and the law is judged"),
        ("unknown", on.unknown, "no source knows where it lies"),
        ("disputed", on.disputed, "the sources disagree about where it lies"),
        ("anycast", on.anycast, "it answers from many places at once"),
        ("mismatch", on.mismatch, "the name does not belong to the address"),
        ("unread", on.unread, "a name is needed and none could be read"),
        ("malformed", on.malformed, "the first bytes break their protocol"),
        ("stale", on.stale, "the table that places it is too old"),
        ("private", on.private, "it is a private address"),
    ]
}

/// What an action means to who is told.
const fn becomes(cause: &str, action: Action) -> &'static str {
    match (cause.as_bytes(), action) {
        (b"unread", Action::Allow) => "judged by its address",
        (_, Action::Allow) => "let go",
        (_, Action::Log) => "let go, and marked for a look",
        (_, Action::Block) => "refused",
    }
}

/// The whole policy, of bounded length.
pub(super) fn policy(config: &Config, version: &str, now: Timestamp) -> Value {
    let defaults = &config.policy;
    let permit = set(config, &defaults.permit, now);
    let law = defaults.permit_law.as_ref().map(|list| set(config, list, now));
    let mut sentences = vec![match defaults.mode {
        Mode::Enforce => "What the policy refuses is refused.".to_owned(),
        Mode::Observe => {
            "The policy only observes: what it would refuse is recorded and let go, but for \
             addresses that nothing opens."
                .to_owned()
        }
    }];
    let as_written = written(config, &defaults.permit).join(", ");
    sentences.push(format!("Data may go to {} (in the file: {as_written}).", countries(permit)));
    sentences.push(match law {
        None => "Whose law reaches an operator is shown, and not judged.".to_owned(),
        Some(law) => format!("No law but that of {} may reach who holds them.", countries(law)),
    });
    let mut named = std::collections::HashSet::new();
    let rules: Vec<&Rule> =
        config.rules.iter().filter(|rule| named.insert(rule.name.as_str())).collect();
    let holds = |rule: &&&Rule| is_in_force(rule, now);
    let waivers = rules.iter().filter(|rule| rule.is_waiver()).filter(holds).count();
    sentences.push(match rules.len() {
        0 => "There are no exceptions.".to_owned(),
        all => format!(
            "{} decide before that, {waivers} of them waivers that hold now.",
            if all == 1 { "1 rule".to_owned() } else { format!("{all} rules") }
        ),
    });
    let causes: Vec<Value> = causes(&defaults.on)
        .into_iter()
        .filter(|(cause, ..)| *cause != "law" && *cause != "operator" || law.is_some())
        .map(|(cause, action, says)| {
            json!({
                "cause": cause,
                "action": action.label(),
                "says": format!("Where {says}, it is {}.", becomes(cause, action)),
            })
        })
        .collect();
    json!({
        "version": version,
        "mode": defaults.mode.label(),
        "sentences": sentences,
        "permit": { "written": written(config, &defaults.permit), "countries": codes(permit) },
        "permit_law": defaults.permit_law.as_ref().zip(law).map(|(list, law)| json!({
            "written": written(config, list),
            "countries": codes(law),
        })),
        "causes": causes,
        "groups": config.groups.iter().map(|one| group(config, one, now)).collect::<Vec<_>>(),
        "rules": rules.iter().take(RULES_MAX).map(|one| rule(config, one, now)).collect::<Vec<_>>(),
        "more_rules": rules.len().saturating_sub(RULES_MAX),
        "contact": defaults.contact,
        "ask_url": defaults.ask_url,
    })
}

fn set(config: &Config, list: &ZoneList, now: Timestamp) -> CountrySet {
    config.zones.resolve(list, now)
}

fn codes(set: CountrySet) -> Vec<&'static str> {
    set.iter().map(Country::code).collect()
}

/// A list as it stands in the file.
fn written(config: &Config, list: &ZoneList) -> Vec<String> {
    let name = |term: &Term| match term {
        Term::Everywhere => "*".to_owned(),
        Term::Country(country) => country.code().to_owned(),
        Term::Zone(at) => {
            config.zones.all.get(*at).map_or_else(String::new, |zone| zone.name.clone())
        }
    };
    let minus = list.minus.iter().map(|term| format!("-{}", name(term)));
    list.plus.iter().map(name).chain(minus).collect()
}

/// Countries in a sentence, by name.
fn countries(set: CountrySet) -> String {
    let mut names: Vec<_> = set.iter().map(|country| name(country).to_owned()).collect();
    names.sort();
    match names.len() {
        0 => "no country at all".to_owned(),
        Country::COUNT => "every country".to_owned(),
        1 => names.concat(),
        count => format!("{count} countries: {}", listed(names.into_iter())),
    }
}

/// What a country is called.
pub(super) fn name(country: Country) -> &'static str {
    world::name(country.code(), world::Language::En).unwrap_or_else(|| country.code())
}

fn is_in_force(rule: &Rule, now: Timestamp) -> bool {
    rule.since.is_none_or(|since| since <= now) && rule.until.is_none_or(|until| now < until.0)
}

/// A list in words, cut where it is long.
fn listed(all: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = all.collect();
    let shown = all.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn group(config: &Config, group: &Group, now: Timestamp) -> Value {
    let is_over = group.until.is_some_and(|until| until.0 <= now);
    let mode = if is_over { config.policy.mode } else { group.mode };
    let permit = set(config, &group.permit, now);
    let law = group.permit_law.as_ref().map(|list| set(config, list, now));
    let mut says = format!(
        "Clients in {}: {}. Data may go to {}",
        listed(group.clients.iter().map(ToString::to_string)),
        match mode {
            Mode::Enforce => "what the policy refuses is refused",
            Mode::Observe => "only observed",
        },
        countries(permit)
    );
    says += &law.map_or_else(String::new, |law| format!("; law of {}", countries(law)));
    says.push('.');
    json!({
        "name": group.name,
        "mode": mode.label(),
        "until": group.until.map(|until| until.0.to_string()),
        "permit": { "written": written(config, &group.permit), "countries": codes(permit) },
        "says": says,
    })
}

fn rule(config: &Config, rule: &Rule, now: Timestamp) -> Value {
    let mut parts = Vec::new();
    let host = |host: HostRef<'_>| {
        let HostRef { name, below } = host;
        if below { format!("*.{name}") } else { name.to_owned() }
    };
    let zone = |list: &ZoneList| listed(written(config, list).into_iter());
    if let Some(services) = &rule.service {
        parts.push(format!("the services {}", listed(services.iter().cloned())));
    } else if let Some(hosts) = &rule.host {
        parts.push(format!("names {}", listed(hosts.iter().map(host))));
    }
    if let Some(to) = rule.to.as_ref().filter(|_| rule.service.is_none()) {
        parts.push(format!("addresses {}", listed(to.iter().map(ToString::to_string))));
    }
    if let Some(list) = &rule.location {
        parts.push(format!("located in {}", zone(list)));
    }
    if let Some(list) = &rule.law {
        parts.push(format!("under the law of {}", zone(list)));
    }
    if let Some(operators) = &rule.operator {
        parts.push(format!("of {}", listed(operators.iter().cloned())));
    }
    if let Some(asn) = &rule.asn {
        parts.push(format!("of {}", listed(asn.iter().map(|number| format!("AS{number}")))));
    }
    if let Some(regions) = &rule.region {
        parts.push(format!("in the regions {}", listed(regions.iter().cloned())));
    }
    if let Some(ports) = &rule.port {
        let port = |range: &std::ops::RangeInclusive<u16>| {
            let (first, last) = (range.start(), range.end());
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        };
        parts.push(format!("port {}", listed(ports.iter().map(port))));
    }
    if let Some(transports) = &rule.transport {
        parts.push(format!("over {}", listed(transports.iter().map(|one| one.label().to_owned()))));
    }
    if let Some(protocols) = &rule.protocol {
        parts.push(format!(
            "speaking {}",
            listed(protocols.iter().map(|one| one.label().to_owned()))
        ));
    }
    let what = if parts.is_empty() { "everything".to_owned() } else { parts.join("; ") };
    let from = rule.from.as_ref().map_or_else(String::new, |from| {
        let one = |from: &From| match from {
            From::Group(at) => {
                config.groups.get(*at).map_or_else(String::new, |group| group.name.clone())
            }
            From::Net(net) => net.to_string(),
        };
        format!(", for {}", listed(from.iter().map(one)))
    });
    let verb = match rule.action {
        Action::Allow => "Let go",
        Action::Log => "Let go, and marked for a look",
        Action::Block => "Refused",
    };
    json!({
        "name": rule.name,
        "action": rule.action.label(),
        "says": format!("{verb}: {what}{from}."),
        "basis": rule.basis,
        "reason": rule.reason,
        "owner": rule.owner,
        "since": rule.since.map(|at| at.to_string()),
        "until": rule.until.map(|until| until.0.to_string()),
        "is_waiver": rule.is_waiver(),
        "is_in_force": is_in_force(rule, now),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config;

    fn words(text: &str) -> Value {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        std::fs::write(&path, text).unwrap();
        let loaded = config::load(Some(&path)).unwrap_or_else(|faults| panic!("{faults}"));
        policy(&loaded.config, "0a", "2026-11-30T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_policy_is_told_with_its_countries_groups_and_exceptions() {
        let words = words(
            "schema = 1\n[policy]\npermit = [\"FR\", \"DE\"]\npermit_law = [\"FR\"]\n\
             [[group]]\nname = \"dev\"\nclients = [\"10.40.0.0/16\"]\nmode = \"observe\"\n\
             until = 2026-01-01\npermit = [\"FR\"]\n\
             [[rule]]\nname = \"updates\"\naction = \"allow\"\nhost = [\"deb.debian.org\", \"*.example.eu\"]\n\
             port = [443, \"8000-8099\"]\nfrom = [\"dev\"]\nowner = \"IT\"\nuntil = 2027-03-31\n\
             [[rule]]\nname = \"no\"\naction = \"block\"\nlocation = [\"US\"]\n",
        );
        assert_eq!(words["permit"]["countries"], json!(["DE", "FR"]));
        assert_eq!(
            words["sentences"][1],
            "Data may go to 2 countries: France, Germany (in the file: FR, DE)."
        );
        assert_eq!(
            words["sentences"][3],
            "2 rules decide before that, 1 of them waivers that hold now."
        );
        let says = words["rules"][0]["says"].as_str().unwrap();
        assert_eq!(
            says,
            "Let go: names deb.debian.org, *.example.eu; port 443, 8000-8099, for dev."
        );
        assert_eq!(words["rules"][1]["says"], "Refused: located in US.");
        assert_eq!(words["groups"][0]["mode"], "enforce", "its own mode has ended");
        let causes = words["causes"].as_array().unwrap();
        assert!(causes.iter().any(|cause| cause["cause"] == "law"));
    }

    #[test]
    fn a_policy_of_many_rules_is_cut_and_says_so() {
        let mut text = "schema = 1\n[policy]\npermit = [\"FR\"]\n".to_owned();
        for number in 0..RULES_MAX + 7 {
            text += &format!(
                "[[rule]]\nname = \"r{number}\"\naction = \"block\"\nport = [{}]\n",
                number + 1
            );
        }
        let words = words(&text);
        assert_eq!(words["rules"].as_array().unwrap().len(), RULES_MAX);
        assert_eq!(words["more_rules"], 7);
        assert!(!words["causes"].as_array().unwrap().iter().any(|cause| cause["cause"] == "law"));
    }
}
