//! One verdict with each step, source, date and rule: what `schengate explain` prints, and what the API
//! of the admin listener answers. Judged by the policy that it is given, and nothing is looked up.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::capture::{Capture, Form, Servers, candidates};
use super::compile::Compiler;
use super::config::{Rule, Shortcut};
use super::data::{Facts, Located, RegionPlace, SourceInfo, embedded_registrant};
use crate::identify::{HostName, Protocol};
use crate::policy::{
    Action, AddressKind, AddressTable, Binding, Claim, Class, Country, CountrySet, Datapath, Ech,
    Location, Mode, Operator, Outlook, Policy, Question, Reason, RuleId, SourceNote, Step,
    Transport, Verdict,
};
use crate::report::distance::{Distances, Position};
use crate::settings::Lane;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The destination.
    pub to: SocketAddr,
    /// The name that the client asks for; without it none could be read.
    pub host: Option<HostName>,
    /// The client; without it no `from` matches and no group applies.
    pub client: Option<IpAddr>,
    /// What the first bytes are.
    pub protocol: Spoken,
    /// The hello carries the ECH extension.
    pub ech: bool,
    /// The first bytes break the rules of their protocol.
    pub malformed: bool,
    /// The name is the client's claim only.
    pub unbound: bool,
}

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[expect(missing_docs, reason = "each is the protocol of its name")]
pub enum Spoken {
    Tls,
    Quic,
    Http,
    Dtls,
    Other,
}

impl Spoken {
    /// By its label, as records have it; what has no name of its own here is `other`.
    #[must_use]
    pub fn of(label: &str) -> Self {
        match label {
            "tls" => Self::Tls,
            "quic" => Self::Quic,
            "http" => Self::Http,
            "dtls" => Self::Dtls,
            _ => Self::Other,
        }
    }

    /// The protocol, and how its bytes travel.
    #[must_use]
    pub const fn carried(self) -> (Protocol, Transport) {
        match self {
            Self::Tls => (Protocol::Tls, Transport::Tcp),
            Self::Quic => (Protocol::Quic, Transport::Udp),
            Self::Http => (Protocol::Http, Transport::Tcp),
            Self::Dtls => (Protocol::Dtls, Transport::Udp),
            Self::Other => (Protocol::Other, Transport::Tcp),
        }
    }
}

/// What is neither an address nor one with a port.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("write 192.0.2.1, 192.0.2.1:443, 2001:db8::1 or [2001:db8::1]:443")]
pub struct NotADestination;

/// Reads an address, or an address and a port; without one it is 443.
///
/// # Errors
/// What to write instead.
pub fn destination(text: &str) -> Result<SocketAddr, NotADestination> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, 443));
    }
    text.parse().map_err(|_| NotADestination)
}

/// A verdict with all that it rests on.
#[derive(Debug)]
pub struct Answer<'a> {
    asked: &'a Asked,
    compiler: &'a Compiler,
    policy: &'a Policy,
    /// The instant that is judged.
    at: Timestamp,
    verdict: Verdict,
    /// Whether the binding of the name was looked at, and what it was taken for.
    bound: Option<bool>,
    /// Every law that may reach the holder, those that the name brings along included.
    law: CountrySet,
    /// Where the holder of the address is registered, where nobody knows the operator.
    registrant: Option<Country>,
    steps: Vec<String>,
}

impl<'a> Answer<'a> {
    /// Judges.
    #[must_use]
    pub fn new(
        asked: &'a Asked,
        compiler: &'a Compiler,
        policy: &'a Policy,
        at: Timestamp,
    ) -> Self {
        let (protocol, transport) = asked.protocol.carried();
        let claim = |bound: bool| match &asked.host {
            named if asked.malformed => {
                Claim::Malformed(named.as_ref().map_or(&[], std::slice::from_ref))
            }
            None => Claim::Unread,
            Some(name) if bound => Claim::Bound(name),
            Some(name) => Claim::Claimed(name),
        };
        let question = |bound: bool| Question {
            client: asked.client,
            destination: asked.to,
            transport,
            protocol,
            name: claim(bound),
            ech: asked.ech,
        };
        let bound = !asked.unbound;
        let mut steps = Vec::new();
        let verdict = policy.decide_traced(&question(bound), &mut steps);
        let named = asked.host.is_some() && !asked.malformed;
        let matters = named && policy.decide(&question(true)) != policy.decide(&question(false));
        let mut answer = Self {
            asked,
            compiler,
            policy,
            at,
            verdict,
            bound: matters.then_some(bound),
            law: CountrySet::EMPTY,
            registrant: None,
            steps: Vec::new(),
        };
        answer.law = answer.law_by(&steps);
        answer.registrant = answer.registered();
        answer.steps = answer.sentences(&steps);
        answer
    }

    /// How the kernel carries or refuses the connection: by itself, or once the gateway has judged it;
    /// `Err` says why it does neither.
    fn path(&self) -> Result<&'static str, &'static str> {
        let config = self.compiler.config();
        if config.lane.is_some() {
            return self.lane();
        }
        if config.capture.shortcut == Shortcut::Off {
            return Err("`capture.shortcut` is off");
        }
        let (_, transport) = self.asked.protocol.carried();
        let clients = self.policy.clients(candidates(config));
        match self.policy.path(self.asked.to, transport, &clients) {
            Datapath::Gateway(detour) => Err(detour.sentence()),
            Datapath::Kernel(Action::Block, _)
                if config.capture.shortcut == Shortcut::Permitted =>
            {
                Err("`capture.shortcut` is \"permitted\": refusals are recorded")
            }
            Datapath::Kernel(_, _) => Ok("kernel"),
        }
    }

    /// Whether the lane takes the connection: its first packet decides, or a hello that it reads.
    fn lane(&self) -> Result<&'static str, &'static str> {
        let (_, transport) = self.asked.protocol.carried();
        let (client, destination) = (self.asked.client, self.asked.to);
        let protocol = Protocol::Other;
        let name = Claim::Unread;
        let question = Question { client, destination, transport, protocol, name, ech: false };
        match self.policy.outlook(&question) {
            Outlook::Settled(verdict) if verdict.action() == Action::Block => {
                Err("its addresses refuse it: the listener beside the lane answers and records")
            }
            Outlook::Settled(_) => Ok("lane"),
            Outlook::Unless(_) | Outlook::Open
                if transport == Transport::Tcp
                    && destination.port() == Lane::NAMED_PORT
                    && self.policy.binding() != Binding::Redial =>
            {
                Ok("lane")
            }
            Outlook::Unless(_) => Err("a name in its first bytes could refuse it"),
            Outlook::Open => Err("a name in its first bytes may decide"),
        }
    }

    /// What this host's own programs may send there without a verdict, where their traffic is captured;
    /// nothing where no listener is for that.
    fn unjudged(&self) -> Vec<String> {
        let config = self.compiler.config();
        // Whoever is exempt: the form is asked for, and not set.
        match Capture::new(Form::Host { exempt_uid: 0 }, &config.listen) {
            Ok(_) => Servers::new(config).open_to(self.asked.to.ip()),
            Err(_) => Vec::new(),
        }
    }

    fn address_table(&self) -> &'a AddressTable {
        self.policy.address_table()
    }

    fn class(&self) -> Option<&'a Class> {
        let judged = crate::policy::target(self.asked.to.ip()).judged;
        self.address_table().classes().get(self.address_table().class_of(judged))
    }

    fn location(&self) -> Option<&'a Location> {
        self.address_table().locations().get(self.class()?.location as usize)
    }

    fn address_operator(&self) -> Option<&'a Operator> {
        self.address_table().operators().get(self.class()?.operator as usize)
    }

    fn source_name(&self, source: u32) -> &'a str {
        self.address_table().sources().get(source as usize).map_or("", |note| note.name.as_str())
    }

    /// Date of a source as `2026-08-22`.
    fn source_date(&self, source: u32) -> Option<String> {
        let at = self.address_table().sources().get(source as usize)?.as_of_ms?;
        Some(day(Timestamp::from_millisecond(at).ok()?))
    }

    /// Whether a source's date is when its file was last written.
    fn is_dated_by_file(&self, source: u32) -> bool {
        let name = self.source_name(source);
        self.compiler.infos().iter().any(|info| info.name == name && info.dated_by_file)
    }

    /// By how much a source is older than `[data] max_age`, in words.
    fn too_old(&self, source: u32) -> Option<String> {
        let max_age = self.compiler.max_age(self.source_name(source))?;
        let date = self.address_table().sources().get(source as usize)?.as_of_ms?;
        let age = self.at.duration_since(Timestamp::from_millisecond(date).ok()?);
        let age = Duration::try_from(age).ok().filter(|age| *age > max_age)?;
        let days = |time: Duration| time.as_secs() / 86_400;
        Some(format!(
            "that table is {} days old, and [data] max_age is {} days",
            days(age),
            days(max_age)
        ))
    }

    fn regions(&self) -> Vec<&'a str> {
        let address_table = self.address_table();
        let regions =
            self.location().map(|location| location.regions.as_slice()).unwrap_or_default();
        let names = regions.iter().filter_map(|&at| address_table.regions().get(at as usize));
        names.map(String::as_str).collect()
    }

    fn rule(&self, id: RuleId) -> Option<&'a Rule> {
        let name = self.policy.rule_name(id);
        self.compiler.config().rules.iter().find(|rule| rule.name == name)
    }

    fn sentences(&self, steps: &[Step]) -> Vec<String> {
        let mut said = Vec::new();
        for step in steps {
            match *step {
                Step::Target(target) => {
                    if let Some(outer) = target.outer {
                        said.push(format!("{outer} carries {}, which is judged", target.judged));
                    } else if target.judged != self.asked.to.ip() {
                        said.push(format!("{} is {}", self.asked.to.ip(), target.judged));
                    }
                    said.push(format!("{} is {}", target.judged, stands(target.kind)));
                    if matches!(target.kind, AddressKind::Guard | AddressKind::Loop) {
                        continue;
                    }
                    self.facts(&mut said);
                }
                Step::Group(group, mode) => said.push(format!(
                    "{} the policy `{}`, mode {}",
                    match self.asked.client {
                        Some(client) => format!("client {client} is under"),
                        None => "no client given:".into(),
                    },
                    self.policy.group_name(group),
                    mode.label()
                )),
                Step::Ech(Ech::Block) => {
                    said.push(
                        "the hello carries ECH, and [names] ech = \"block\" refuses it".into(),
                    );
                }
                Step::Ech(_) => {
                    said.push("the hello carries ECH: its name counts as not read".into());
                }
                Step::HostOperator(operator, bound) => {
                    let operator = self.address_table().operators().get(operator as usize);
                    let id = operator.map_or("", |operator| operator.id.as_str());
                    let homes = operator.map(|operator| operator.homes).unwrap_or_default();
                    said.push(if bound {
                        format!("the name is bound and belongs to operator {id} (homes {homes})")
                    } else {
                        format!("the claimed name adds operator {id} (homes {homes})")
                    });
                }
                Step::NameLaw(law) => {
                    let named = self.asked.host.as_ref();
                    let fact = named.and_then(|name| Facts::built_in().domain(name));
                    let (operator, suffix) = fact
                        .map_or(("", ""), |fact| (fact.operator.as_str(), fact.suffix.as_str()));
                    said.push(format!(
                        "the name is of {operator} ({suffix}): its law {law} is added"
                    ));
                }
                Step::Cause(reason, action, Some(rule)) => said.push(format!(
                    "rule `{}` would match, but {}: cause {reason} -> {}",
                    self.policy.rule_name(rule),
                    if reason == Reason::Unread {
                        "no name could be read"
                    } else if reason == Reason::Malformed {
                        "the first bytes break their protocol's rules"
                    } else {
                        "the name is not bound to the address"
                    },
                    cause_action(reason, action),
                )),
                Step::Cause(reason, action, None) => {
                    said.push(format!("cause {reason} holds -> {action}"));
                }
                Step::Rule(rule, action) => said.push(self.rule_sentence(rule, action)),
                Step::Floor(reason) => {
                    said.push(format!("what would be allowed is logged, by the cause {reason}"));
                }
            }
        }
        if self.verdict.rule().is_none() && self.verdict.reason() == Reason::Permitted {
            said.push("no rule matches, and no cause holds: permitted".into());
        }
        if let Some(host) = self.asked.host.as_ref().filter(|_| !self.asked.malformed) {
            let how = match (self.asked.unbound, self.policy.binding()) {
                (false, _) => "taken as bound to the address (offline, nothing is looked up)",
                (true, Binding::Trust) => "believed: [names] binding = \"trust\"",
                (true, Binding::Verify | Binding::Redial) => "judged as the client's claim only",
            };
            said.insert(0, format!("name {host} is {how}"));
        }
        if self.verdict.mode() == Mode::Observe
            && let Some(would) = self.verdict.would()
        {
            said.push(format!("observe: {} instead of {would}", self.verdict.action()));
        }
        said
    }

    /// What is known of the address: location, dissent, operator.
    fn facts(&self, said: &mut Vec<String>) {
        let Some(location) = self.location() else { return };
        let dated = |source: u32| match self.source_date(source) {
            Some(date) if self.is_dated_by_file(source) => {
                format!("{} of {date} (by its file)", self.source_name(source))
            }
            Some(date) => format!("{} of {date}", self.source_name(source)),
            None => self.source_name(source).to_owned(),
        };
        let mut places = Vec::new();
        if !location.codes.is_empty() {
            places.push(format!("located in {}", location.codes));
        }
        if location.anycast {
            places.push("answering from many places (anycast)".into());
        }
        if location.unknown {
            places.push("of unknown location".into());
        }
        let mut sentence = places.join(", or ");
        if let Some(source) = location.source {
            sentence.push_str(&format!(", by {}", dated(source)));
        }
        let regions = self.regions();
        if !regions.is_empty() {
            sentence.push_str(&format!(", region {}", regions.join(" or ")));
        }
        said.push(sentence);
        if let Some((position, least)) = self.round_trip() {
            said.push(format!(
                "light in fibre takes {:.1} ms from {position} to there and back, at the least",
                least / 1000.0
            ));
        }
        if location.unknown {
            said.extend(regions.iter().filter_map(|region| unplaced(region)));
        }
        said.extend(location.source.and_then(|source| self.too_old(source)));
        for &(source, country) in &location.dissenters {
            said.push(format!("{} says {country} instead", dated(source)));
        }
        let asn = self.class().map_or(0, |class| class.asn);
        let number = if asn == 0 { String::new() } else { format!(" (AS{asn})") };
        match self.address_operator().filter(|operator| !operator.id.is_empty()) {
            Some(operator) => said.push(format!(
                "operator {}{number}, homes {}{}{}, by {}",
                operator.id,
                operator.homes,
                if operator.uncertain { ", uncertain whether all of them" } else { "" },
                if operator.technology.is_empty() {
                    String::new()
                } else {
                    format!(", technology {}", operator.technology)
                },
                operator.source
            )),
            None => said.push(format!("operator unknown{number}")),
        }
        if let Some(country) = self.registrant {
            said.push(if self.compiler.config().policy.registrant {
                format!(
                    "its holder is registered in {country}, which counts as home: {REGISTRANT_OFF}"
                )
            } else {
                format!("its holder is registered in {country}, which counts for nothing here")
            });
        }
    }

    fn rule_sentence(&self, id: RuleId, action: Action) -> String {
        let mut sentence = format!("rule `{}` matches -> {action}", self.policy.rule_name(id));
        let Some(rule) = self.rule(id) else { return sentence };
        let until = rule.until.map(|until| until.to_string());
        let services = rule.service.as_ref().map(|services| services.join(", "));
        let parts = [
            ("service", services.as_deref()),
            ("basis", rule.basis.as_deref()),
            ("reason", rule.reason.as_deref()),
            ("owner", rule.owner.as_deref()),
            ("holds", until.as_deref()),
        ];
        for (key, value) in parts {
            if let Some(value) = value {
                sentence.push_str(&format!("; {key} {value}"));
            }
        }
        sentence
    }

    /// Every law that may reach the holder, the name's operator included.
    fn law_by(&self, steps: &[Step]) -> CountrySet {
        let codes = self.location().map(|location| location.codes).unwrap_or_default();
        let mut homes = self.address_operator().map(|operator| operator.homes).unwrap_or_default();
        for step in steps {
            if let Step::HostOperator(operator, bound) = *step {
                let operator = self.address_table().operators().get(operator as usize);
                let named = operator.map(|operator| operator.homes).unwrap_or_default();
                homes = if bound { named } else { homes | named };
            } else if let Step::NameLaw(law) = *step {
                homes |= law;
            }
        }
        codes | homes
    }

    /// Where the holder is registered, of an ordinary address whose operator nobody knows.
    fn registered(&self) -> Option<Country> {
        let ordinary = self.class().is_some_and(|class| class.kind == AddressKind::Ordinary);
        let named = self.address_operator().is_some_and(|operator| !operator.id.is_empty());
        if !ordinary || named {
            return None;
        }
        let judged = crate::policy::target(self.asked.to.ip()).judged;
        match embedded_registrant().ok()?.ranges.lookup(judged)? {
            Located::Country(country) => Some(country),
            Located::Anycast => None,
        }
    }

    /// Where the gateway stands, and the shortest round trip from there to the location, microseconds.
    fn round_trip(&self) -> Option<(Position, f64)> {
        let location = self.location().filter(|location| !location.anycast)?;
        let position = self.compiler.config().position?;
        let least = Distances::to(position, location.codes).round_trip(location.codes)?;
        Some((position, least))
    }

    /// Who says otherwise, and since when.
    fn dissenters(&self, location: &Location) -> Vec<Value> {
        let each = location.dissenters.iter().map(|&(source, country)| {
            json!({
                "country": country.code(),
                "source": self.source_name(source),
                "as_of": self.source_date(source),
            })
        });
        each.collect()
    }

    /// The verdict.
    #[must_use]
    pub const fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// As one JSON object, whose fields `explain --json` has.
    #[must_use]
    pub fn json(&self) -> Value {
        let verdict = &self.verdict;
        let location = self.location();
        let operator = self.address_operator();
        let codes = |set: CountrySet| set.iter().map(Country::code).collect::<Vec<_>>();
        let rule = verdict.rule();
        let path = self.path();
        json!({
            "verdict": verdict.action().label(),
            "reason": verdict.reason().label(),
            "would": verdict.would().map(Action::label),
            "rule": rule.map(|id| self.policy.rule_name(id)),
            "mode": verdict.mode().label(),
            "policy": self.policy.group_name(verdict.group()),
            "policy_version": self.policy.version(),
            "destination": verdict.destination().to_string(),
            "host": self.asked.host.as_ref().map(HostName::as_str),
            "name_bound": self.bound,
            "location": {
                "codes": codes(location.map(|location| location.codes).unwrap_or_default()),
                "anycast": location.is_some_and(|location| location.anycast),
                "unknown": location.is_none_or(|location| location.unknown),
                "source": location.and_then(|at| at.source).map(|source| self.source_name(source)),
                "as_of": location.and_then(|at| at.source).and_then(|source| self.source_date(source)),
                "region": self.regions().first(),
                "rtt_least_us": self.round_trip().map(|(_, least)| least as u64),
                "dissent": codes(location.map(|location| location.dissent).unwrap_or_default()),
                "dissenters": location.map(|location| self.dissenters(location)).unwrap_or_default(),
            },
            "operator": {
                "name": operator.map(|operator| operator.id.as_str()).filter(|id| !id.is_empty()),
                "asn": self.class().map(|class| class.asn).filter(|&asn| asn != 0),
                "homes": codes(operator.map(|operator| operator.homes).unwrap_or_default()),
                "technology": codes(operator.map(|operator| operator.technology).unwrap_or_default()),
                "uncertain": operator.is_some_and(|operator| operator.uncertain),
                "registrant": self.registrant.map(Country::code),
            },
            "law": codes(self.law),
            "path": path.unwrap_or("gateway"),
            "path_reason": path.err(),
            "host_unjudged": self.unjudged(),
            "ground": rule.and_then(|id| self.rule(id)).map(|rule| json!({
                "basis": rule.basis,
                "service": rule.service,
                "reason": rule.reason,
                "owner": rule.owner,
                "until": rule.until.map(|until| until.0.to_string()),
            })),
            "steps": self.steps,
        })
    }

    /// For a person; `file` is where the policy comes from, in words.
    #[must_use]
    pub fn text(&self, file: &str) -> String {
        let mut out = String::new();
        // Into a string nothing fails.
        self.write(&mut out, file).ok();
        out
    }

    fn write(&self, out: &mut String, file: &str) -> fmt::Result {
        let verdict = &self.verdict;
        write!(out, "{}: {}", verdict.action(), verdict.reason())?;
        if let Some(rule) = verdict.rule() {
            write!(out, " `{}`", self.policy.rule_name(rule))?;
        }
        if let Some(would) = verdict.would() {
            write!(out, " (observed; enforce: {would})")?;
        }
        writeln!(out, "\n{}\n", verdict.reason().sentence())?;
        let host = self.asked.host.as_ref().map_or("(none read)", HostName::as_str);
        writeln!(out, "destination  {}", verdict.destination())?;
        writeln!(out, "name         {host}")?;
        writeln!(
            out,
            "policy       {} (version {})",
            self.policy.group_name(verdict.group()),
            self.policy.version()
        )?;
        writeln!(out, "file         {file}")?;
        writeln!(out, "law          {}", self.law)?;
        let config = self.compiler.config();
        if config.lane.is_some() || config.capture.shortcut != Shortcut::Off {
            match self.path() {
                Ok("lane") => {
                    writeln!(out, "path         lane: judged here, carried by the kernel")?
                }
                Ok(_) => writeln!(out, "path         kernel, where the capture has a short cut")?,
                Err(why) => writeln!(out, "path         gateway: {why}")?,
            }
        }
        writeln!(out, "\nsteps")?;
        for (at, step) in self.steps.iter().enumerate() {
            writeln!(out, "{:3}. {step}", at + 1)?;
        }
        let unjudged = self.unjudged();
        if !unjudged.is_empty() {
            writeln!(
                out,
                "\nunjudged, where this host's own traffic is captured (`capture --host`)"
            )?;
        }
        for way in unjudged {
            writeln!(out, "  - {way}")?;
        }
        Ok(())
    }
}

/// `unread = "judge"` is how the policy file writes it.
fn cause_action(reason: Reason, action: Action) -> &'static str {
    match (reason, action) {
        (Reason::Unread, Action::Allow) => "judge by address",
        (Reason::Malformed, Action::Allow) => "as where no name could be read",
        (_, Action::Allow) => "go on",
        (_, action) => action.label(),
    }
}

/// How far the registrants are off (docs/data.md has how it was measured).
const REGISTRANT_OFF: &str = "of the space in the EEA whose operator is known, 4 % is registered \
                              elsewhere than at home, and 7 % under a law of the EEA or an adequate \
                              one while another reaches its owner";

/// What is to be said of each region in a list of the policy's own whose country nobody knows: whatever
/// lies in it is unknown, and a look at one address would be the first to tell.
#[must_use]
pub fn unplaced_regions(policy: &Policy, tables: &[SourceInfo]) -> Vec<String> {
    let addresses = policy.address_table();
    let mut said = BTreeSet::new();
    for location in addresses.locations().iter().filter(|location| location.unknown) {
        let source = location.source.and_then(|at| addresses.sources().get(at as usize));
        let is_own = |source: &&SourceNote| {
            tables.iter().any(|table| table.origin.is_some() && table.name == source.name)
        };
        let Some(source) = source.filter(is_own) else { continue };
        let regions = location.regions.iter();
        let regions = regions.filter_map(|&at| addresses.regions().get(at as usize));
        let why = regions.filter_map(|region| unplaced(region));
        said.extend(why.map(|why| format!("the table {}: {why}", source.name)));
    }
    said.into_iter().collect()
}

/// Why a published region, `provider:region`, has no country.
fn unplaced(region: &str) -> Option<String> {
    let (provider, key) = region.split_once(':')?;
    let mut facts = Facts::built_in().regions.iter();
    let fact = facts.find(|fact| fact.provider == provider && fact.region == key);
    let why = match fact.map(|fact| fact.place) {
        Some(RegionPlace::Unsourced) => "no list of its provider says in which country it is",
        Some(RegionPlace::Several) => "it stands for several countries that are not told apart",
        None => "it is not in the built-in list of regions; a [[place]] may say where it is",
        Some(RegionPlace::Country(_) | RegionPlace::Union | RegionPlace::Anycast) => return None,
    };
    Some(format!("region {region}: {why}"))
}

const fn stands(kind: AddressKind) -> &'static str {
    match kind {
        AddressKind::Ordinary => "ordinary address space",
        AddressKind::Private => "private address space: no table is asked",
        AddressKind::Unallocated => "address space that nobody holds: no table is asked",
        AddressKind::Special => "special-purpose address space: no table is asked",
        AddressKind::Guard => "an address that nothing opens",
        AddressKind::Loop => "the gateway itself or loopback",
    }
}

fn day(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).date().to_string()
}
