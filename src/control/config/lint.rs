//! What is sound and maybe not meant: said once, beside the place, refusing nothing.

use std::collections::HashSet;

use jiff::Timestamp;

use super::error::{Lint, LintKind, Wrong};
use super::fields::{Mark, Marks};
use super::model::{Config, From, Group, Rule, Shortcut, ZoneList};
use super::reader::Reader;
use super::{known, shadow};
use crate::policy::{Action, Binding, Causes, CountrySet, Mode};

/// Every lint of a sound config, in the order of the text.
pub(super) fn all(
    reader: &Reader<'_>,
    config: &Config,
    marks: &Marks,
    now: Timestamp,
) -> Vec<Lint> {
    let mut lints = Lints { reader, config, now, found: Vec::new() };
    lints.policy(&marks.policy);
    for (i, (group, mark)) in config.groups.iter().zip(&marks.groups).enumerate() {
        lints.group(i, group, mark);
    }
    for (i, (rule, mark)) in config.rules.iter().zip(&marks.rules).enumerate() {
        lints.rule(rule, mark);
        lints.shadowed(i, rule, mark);
    }
    if config.names.binding == Binding::Trust {
        let what = "the client is believed about the name: whoever writes a permitted name into \
                    a hello reaches any address";
        let help = "write \"verify\", or \"redial\" where names have many addresses";
        lints.add(LintKind::Trust, marks.names.at("binding"), "names.binding", what, help);
    }
    if config.data.pack.is_some() && config.data.pack_key.is_none() {
        let what = "nobody checks who made the pack: whoever can write the file says where \
                    every address is";
        let help = "sign it (`schengate data keygen`, `schengate data build --pack --sign`) and \
                    write its pack_key";
        lints.add(LintKind::Unsigned, marks.data.at("pack"), "data.pack", what, help);
    }
    lints.tokens(marks.data.at("update"));
    if config.capture.shortcut != Shortcut::Off {
        let what = "what the kernel carries or refuses by itself is counted, and not recorded: no \
                    record says who went where";
        let help = "that is the price of the short cut; \"permitted\" still has every refusal \
                    recorded, \"off\" every connection";
        let at = marks.capture.at("shortcut");
        lints.add(LintKind::Unrecorded, at, "capture.shortcut", what, help);
    }
    lints.found.sort_by_key(|lint| lint.finding.position);
    // A rule of services is several, and told of once.
    let mut told = HashSet::new();
    lints.found.retain(|lint| told.insert(lint.to_string()));
    lints.found
}

struct Lints<'l> {
    reader: &'l Reader<'l>,
    config: &'l Config,
    now: Timestamp,
    found: Vec<Lint>,
}

impl Lints<'_> {
    /// URLs of [data.update] with what looks like a token: the policy is read by many.
    fn tokens(&mut self, at: usize) {
        let sources = self.config.update.as_ref().map_or(&[][..], |update| &update.sources);
        for source in sources.iter().filter(|source| source.url.holds_credential()) {
            let what = format!(
                "the URL of the source \"{}\" seems to hold a credential, which everybody can read \
                 who can read this file",
                source.name
            );
            let help = "put it into a file of its own (credential_file) and write {credential} in \
                        its place";
            self.add(LintKind::TokenInUrl, at, "data.update.source.url", what, help);
        }
    }

    fn add(
        &mut self,
        kind: LintKind,
        at: usize,
        key: &str,
        what: impl Into<String>,
        help: impl Into<String>,
    ) {
        let finding = self.reader.finding(at, key, Wrong::new(what, help));
        self.found.push(Lint { kind, finding });
    }

    fn policy(&mut self, mark: &Mark) {
        let policy = &self.config.policy;
        if policy.mode == Mode::Observe {
            let what = "nothing is refused, and nothing ends that";
            let help = "write \"enforce\" once the record shows no surprise; a [[group]] may \
                        observe with an `until`";
            self.add(LintKind::ObserveWithoutEnd, mark.at("mode"), "policy.mode", what, help);
        }
        self.list("policy.permit", mark.at("permit"), &policy.permit, true);
        if let Some(list) = &policy.permit_law {
            self.list("policy.permit_law", mark.at("permit_law"), list, true);
        }
        if policy.mode == Mode::Enforce {
            self.causes("policy.on", mark.at("on"), &policy.on, policy.permit_law.is_some());
        }
    }

    /// Causes that refuse nothing: with them, `permit` or `permit_law` holds nobody back.
    fn causes(&mut self, key: &str, at: usize, on: &Causes, judges_law: bool) {
        let outside = (on.outside != Action::Block).then_some((
            "outside",
            on.outside,
            "destinations outside `permit` are",
        ));
        let unknown = (on.unknown != Action::Block).then_some((
            "unknown",
            on.unknown,
            "addresses that no table knows are",
        ));
        let law = (judges_law && on.law == Action::Allow).then_some((
            "law",
            on.law,
            "what a law outside `permit_law` reaches is",
        ));
        for (cause, action, are) in [outside, unknown, law].into_iter().flatten() {
            let what = format!("{are} forwarded: with \"{action}\", nothing is refused for it");
            let help = "write \"block\", and rules with a ground for what must pass";
            self.add(LintKind::OpenCause, at, &format!("{key}.{cause}"), what, help);
        }
    }

    /// A list that holds nothing, and one that opens to recipients whom no decision covers.
    fn list(&mut self, key: &str, at: usize, list: &ZoneList, opens: bool) {
        if self.config.zones.resolve(list, self.now) == CountrySet::EMPTY {
            let what = "the list takes out every country that it names";
            let help = "take out less, or name what is meant";
            self.add(LintKind::Nowhere, at, key, what, help);
        }
        for (name, members, hint) in self.config.zones.aliases(list) {
            self.add(LintKind::Alias, at, key, format!("{name:?} stands for {members}"), hint);
        }
        let Some((zone, countries)) = self.config.zones.partial_adequacy(list, self.now) else {
            return;
        };
        if opens {
            let what = format!(
                "{zone} holds {countries} for some recipients only: those of a sector, or those on \
                 a certificate's list; an address does not show which"
            );
            let help = "permit the recipients by rules with a `basis`, or take the countries out \
                        (\"-US\")";
            self.add(LintKind::PartialAdequacy, at, key, what, help);
        }
    }

    fn group(&mut self, index: usize, group: &Group, mark: &Mark) {
        let policy = &self.config.policy;
        let own = |key: &str| mark.at(key) != mark.header;
        let named = |from: &From| *from == From::Group(index);
        let is_named = self.config.rules.iter().flat_map(|rule| &rule.from).flatten().any(named);
        let same = group.mode == policy.mode
            && group.permit == policy.permit
            && group.permit_law == policy.permit_law
            && group.on == policy.on;
        if same && !is_named {
            let what = format!("the group {:?} changes nothing, and no rule names it", group.name);
            let help = "give it a setting of its own, or leave it out";
            self.add(LintKind::IdleGroup, mark.header, "group", what, help);
        }
        match group.until {
            Some(_) if !own("mode") => {
                let what = "`until` ends the group's `mode`, and the group has none";
                let help = "write the mode that is to end, or leave `until` out";
                self.add(LintKind::IdleUntil, mark.at("until"), "group.until", what, help);
            }
            Some(until) if until.0 <= self.now => {
                let what = format!("the group's mode has ended: it held {until}");
                let help = "leave `mode` and `until` out, or write a later end";
                self.add(LintKind::Expired, mark.at("until"), "group.until", what, help);
            }
            None if own("mode") && group.mode == Mode::Observe => {
                let what = "nothing is refused to this group, and nothing ends that";
                let help = "write an `until`";
                self.add(LintKind::ObserveWithoutEnd, mark.at("mode"), "group.mode", what, help);
            }
            Some(_) | None => {}
        }
        if own("on") && group.mode == Mode::Enforce {
            self.causes("group.on", mark.at("on"), &group.on, group.permit_law.is_some());
        }
        if own("permit") {
            self.list("group.permit", mark.at("permit"), &group.permit, true);
        }
        if let Some(list) = group.permit_law.as_ref().filter(|_| own("permit_law")) {
            self.list("group.permit_law", mark.at("permit_law"), list, true);
        }
    }

    fn rule(&mut self, rule: &Rule, mark: &Mark) {
        let opens = rule.action != Action::Block;
        if rule.action == Action::Allow {
            self.ground(rule, mark);
        }
        if opens {
            self.leading_words(rule, mark);
        }
        let lists = [("location", &rule.location), ("law", &rule.law)];
        for (key, list) in lists {
            if let Some(list) = list {
                self.list(&format!("rule.{key}"), mark.at(key), list, opens);
            }
        }
        let Some(until) = rule.until else { return };
        if rule.since.is_some_and(|since| since >= until.0) {
            let what = format!("the rule {:?} ends before it begins", rule.name);
            let help = "write an `until` behind `since`";
            self.add(LintKind::Never, mark.at("until"), "rule.until", what, help);
        } else if until.0 <= self.now {
            let called = if rule.is_waiver() { "waiver" } else { "rule" };
            let what = format!("the {called} {:?} has ended: it held {until}", rule.name);
            let help = "leave it out, or renew it with a later end";
            self.add(LintKind::Expired, mark.at("until"), "rule.until", what, help);
        }
    }

    /// An allow rule rests on something: a basis that stands, or a reason with an end.
    fn ground(&mut self, rule: &Rule, mark: &Mark) {
        if rule.basis.is_none() && rule.reason.is_none() {
            let what = format!("the allow rule {:?} says on no ground that it opens", rule.name);
            let help = "write a `basis` (a contract, a decision) or a `reason`";
            self.add(LintKind::NoGround, mark.header, "rule", what, help);
        }
        if rule.until.is_none() && rule.basis.is_none() {
            let what =
                format!("the allow rule {:?} has no end and no basis that stands", rule.name);
            let help = "write an `until` (with an `owner`, it is a waiver) or a `basis`";
            self.add(LintKind::NoEnd, mark.header, "rule", what, help);
        }
        if shadow::is_for_everything(rule) {
            let what = format!("while it lasts, the rule {:?} allows every connection", rule.name);
            let help = "say what it is for: host, to, location ...";
            self.add(LintKind::Everything, mark.header, "rule", what, help);
        }
    }

    /// Only a block rule matches by leading words; in an allow or log rule they match nothing.
    fn leading_words(&mut self, rule: &Rule, mark: &Mark) {
        let own = self.config.operators.iter().map(|entry| entry.name.as_str());
        let ids: Vec<&str> = known::operator_ids().iter().map(String::as_str).chain(own).collect();
        let article = if rule.action == Action::Log { "a" } else { "an" };
        for operator in rule.operator.iter().flatten() {
            if ids.contains(&operator.as_str()) {
                continue;
            }
            let whole: Vec<_> = ids
                .iter()
                .filter(|id| known::leads(operator, id))
                .map(|id| format!("{id:?}"))
                .collect();
            let what = format!(
                "{operator:?} is not a whole operator id, and {article} {} rule takes no other",
                rule.action
            );
            let help = format!("write {}", whole.join(", "));
            self.add(LintKind::LeadingWord, mark.at("operator"), "rule.operator", what, help);
        }
    }

    fn shadowed(&mut self, index: usize, rule: &Rule, mark: &Mark) {
        let earlier = self.config.rules.iter().take(index);
        let Some(cover) =
            earlier.into_iter().find(|cover| shadow::covers(self.config, cover, rule, self.now))
        else {
            return;
        };
        let what = format!(
            "the rule {:?} can never match: {:?} in line {} decides wherever it would",
            rule.name, cover.name, cover.line
        );
        let help = "move it up, or leave it out";
        self.add(LintKind::Shadowed, mark.header, "rule", what, help);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Faults, Loaded, parse_at};
    use super::*;

    fn read(tail: &str) -> Result<Loaded, Faults> {
        let now = "2026-11-24T12:00:00Z".parse().unwrap();
        parse_at(&format!("schema = 1\n[policy]\npermit = ['eea']\n{tail}"), None, now)
    }

    /// The lints of a text, by kind, with the line of each.
    fn lints(tail: &str) -> Vec<(LintKind, usize)> {
        let lints = read(tail).unwrap_or_else(|faults| panic!("{faults}")).lints;
        lints.iter().map(|lint| (lint.kind, lint.finding.position.unwrap().line)).collect()
    }

    const RULE: &str = "[[rule]]\nbasis = 'x'\n";

    #[test]
    fn lints_point_at_what_is_sound_and_maybe_not_meant() {
        let rule = |keys: &str| lints(&format!("{RULE}name = 'a'\n{keys}"));
        assert_eq!(lints("mode = 'observe'"), [(LintKind::ObserveWithoutEnd, 4)]);
        let open = "permit_law = ['eea']\n[policy.on]\n";
        assert_eq!(
            lints(&format!("{open}outside = 'log'\nunknown = 'allow'\nlaw = 'allow'")),
            [(LintKind::OpenCause, 5); 3]
        );
        assert_eq!(lints(&format!("{open}law = 'log'\nprivate = 'allow'")), []);
        assert_eq!(lints("[policy.on]\nlaw = 'allow'"), []);
        assert_eq!(
            lints(
                &format!("{open}outside = 'log'")
                    .replace("permit_law", "mode = 'observe'\npermit_law")
            ),
            [(LintKind::ObserveWithoutEnd, 4)]
        );
        assert_eq!(lints("permit_law = ['FR', '-FR']"), [(LintKind::Nowhere, 4)]);
        assert_eq!(
            lints("permit_law = ['gdpr-adequacy-partial']"),
            [(LintKind::PartialAdequacy, 4)]
        );
        assert_eq!(lints("permit_law = ['FR', 'hds']"), [(LintKind::Alias, 4)]);
        assert_eq!(lints("permit_law = ['eea']"), []);
        assert_eq!(lints("[names]\nbinding = 'trust'"), [(LintKind::Trust, 5)]);
        let group = "[[group]]\nname = 'g'\nclients = ['10.0.0.0/8']\n";
        assert_eq!(lints(group), [(LintKind::IdleGroup, 4)]);
        assert_eq!(lints(&format!("{group}{RULE}name = 'a'\nfrom = ['g']\naction = 'block'")), []);
        let observed = format!("{group}mode = 'observe'\n");
        assert_eq!(lints(&observed), [(LintKind::ObserveWithoutEnd, 7)]);
        assert_eq!(lints(&format!("{observed}until = 2026-11-24")), []);
        assert_eq!(lints(&format!("{observed}until = 2026-11-23")), [(LintKind::Expired, 8)]);
        assert_eq!(
            lints(&format!("{group}permit = ['FR']\nuntil = 2026-12-31")),
            [(LintKind::IdleUntil, 8)]
        );
        assert_eq!(rule("action = 'allow'\nport = [1]"), []);
        assert_eq!(
            rule("action = 'block'\nport = [1]\nuntil = 2026-11-23"),
            [(LintKind::Expired, 9)]
        );
        assert_eq!(rule("action = 'block'\nport = [1]\nuntil = 2026-11-24"), []);
        assert_eq!(
            rule("action = 'block'\nport = [1]\nsince = 2026-12-31\nuntil = 2026-12-30"),
            [(LintKind::Never, 10)]
        );
        assert_eq!(rule("action = 'allow'\nuntil = 2027-01-01"), [(LintKind::Everything, 4)]);
        assert_eq!(rule("action = 'log'\noperator = ['akamai']"), [(LintKind::LeadingWord, 8)]);
        assert_eq!(rule("action = 'block'\noperator = ['akamai']"), []);
        assert_eq!(
            lints("[[rule]]\nname = 'a'\naction = 'allow'\nport = [1]"),
            [(LintKind::NoGround, 4), (LintKind::NoEnd, 4)]
        );
        assert_eq!(
            lints("[[rule]]\nname = 'a'\naction = 'allow'\nport = [1]\nreason = 'x'"),
            [(LintKind::NoEnd, 4)]
        );
    }

    #[test]
    fn a_lint_says_what_to_write() {
        let loaded =
            read("[[rule]]\nname = 'a'\nbasis = 'x'\naction = 'log'\noperator = ['akamai']");
        let lint = loaded.unwrap().lints.remove(0).to_string();
        assert_eq!(
            lint,
            "<policy>:8:1: warning: rule.operator: \"akamai\" is not a whole operator id, and a log rule \
             takes no other\n  help: write \"akamai-international\", \"akamai-prolexic\", \
             \"akamai-technologies\""
        );
    }
}
