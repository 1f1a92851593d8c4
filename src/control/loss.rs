//! What a policy would no longer refuse, against the one in force: the guard of a reload that nobody
//! asked for. A file that was cut or written in part is more often a mistake than news, as with a
//! table (`[data] max_loss`), and what it lacks would be open.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::config::{Config, Rule};
use crate::policy::{Action, HostRef};

/// What speaks against taking up `new` in place of `old` without being told to: more than
/// `[data] max_loss` of the one in force is gone, of its lines, its block rules, or what one of them
/// names.
#[must_use]
pub fn losses(old: &Config, new: &Config) -> Vec<String> {
    let limit = old.data.max_loss;
    let mut said = Vec::new();
    let mut weigh = |what: String, had: usize, lost: usize| {
        if lost * 100 > had * usize::from(limit) {
            said.push(format!("{lost} of {had} {what}"));
        }
    };
    weigh("lines of the policy".into(), old.lines, old.lines.saturating_sub(new.lines));
    let is_block = |rule: &&Rule| rule.action == Action::Block;
    let old_rules: Vec<_> = old.rules.iter().filter(is_block).collect();
    let new_rules: Vec<_> = new.rules.iter().filter(is_block).collect();
    let successor = |rule: &Rule| new_rules.iter().copied().find(|new| new.name == rule.name);
    let gone = old_rules.iter().filter(|rule| successor(rule).is_none()).count();
    weigh("block rules".into(), old_rules.len(), gone);
    for rule in old_rules.iter().copied() {
        let Some(new) = successor(rule) else { continue };
        // A condition that is left out matches all.
        let names = hosts(rule);
        let kept = hosts(new);
        let lost = if new.host.is_some() { names.difference(&kept).count() } else { 0 };
        weigh(format!("names of rule `{}`", rule.name), names.len(), lost);
        let nets = rule.to.as_deref().unwrap_or_default();
        let lost = |net: &&ipnet::IpNet| !new.to.iter().flatten().any(|new| new.contains(*net));
        let lost = if new.to.is_some() { nets.iter().filter(lost).count() } else { 0 };
        weigh(format!("prefixes of rule `{}`", rule.name), nets.len(), lost);
    }
    said
}

/// The host patterns of a rule, each as a number: a list may have two million.
fn hosts(rule: &Rule) -> HashSet<u64> {
    let number = |host: HostRef<'_>| {
        let mut hasher = DefaultHasher::new();
        host.hash(&mut hasher);
        hasher.finish()
    };
    rule.host.iter().flat_map(|list| list.iter()).map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config;

    const RULES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

    fn policy(rules: &[&str], hosts: usize, nets: usize) -> Config {
        let list = |of: &dyn Fn(usize) -> String, count: usize| {
            (0..count).map(|n| format!("'{}'", of(n))).collect::<Vec<_>>().join(", ")
        };
        let host = list(&|n| format!("h{n}.example"), hosts);
        let to = list(&|n| format!("198.51.{n}.0/24"), nets);
        let mut text = "schema = 1\n[policy]\npermit = ['eea']\n".to_owned();
        for name in rules {
            text += &format!("[[rule]]\nname = '{name}'\naction = 'block'\nhost = [{host}]\n");
            text += &format!("[[rule]]\nname = '{name}2'\naction = 'block'\nto = [{to}]\n");
        }
        config::parse(&text, None).unwrap().config
    }

    #[test]
    fn a_large_loss_of_what_is_refused_is_told_and_a_small_one_is_not() {
        let old = policy(&RULES, 10, 10);
        assert_eq!(losses(&old, &policy(&RULES, 10, 10)), [""; 0]);
        assert_eq!(losses(&old, &policy(&RULES, 8, 8)), [""; 0], "a fifth may go");
        assert_eq!(losses(&old, &policy(&RULES, 20, 20)), [""; 0]);
        let names = losses(&old, &policy(&RULES, 7, 10));
        assert_eq!((names.len(), names[0].as_str()), (6, "3 of 10 names of rule `a`"));
        let prefixes = losses(&old, &policy(&RULES, 10, 7));
        assert_eq!((prefixes.len(), prefixes[0].as_str()), (6, "3 of 10 prefixes of rule `a2`"));
        assert_eq!(losses(&old, &policy(&RULES[..5], 10, 10)), [""; 0]);
        let rules = losses(&old, &policy(&RULES[..4], 10, 10));
        assert_eq!(rules, ["16 of 51 lines of the policy", "4 of 12 block rules"]);
    }

    #[test]
    fn a_loss_of_what_only_allows_closes_and_is_taken_up() {
        let rule = |action: &str, hosts: &str| {
            let text = format!(
                "schema = 1\n[policy]\npermit = ['eea']\n[[rule]]\nname = 'a'\n\
                 action = '{action}'\nhost = [{hosts}]\n"
            );
            config::parse(&text, None).unwrap().config
        };
        let (long, short) = ("'a.example', 'b.example'", "'a.example'");
        assert_eq!(losses(&rule("allow", long), &rule("allow", short)), [""; 0]);
        assert_eq!(losses(&rule("block", long), &rule("block", short)).len(), 1);
        assert_eq!(losses(&rule("block", long), &rule("log", long)).len(), 1);
    }
}
