//! What happens to the gateway itself, as records: its tables, its capture, its clock, its waivers, and
//! that it still refuses what it must.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::account::Account;
use crate::control::config::Config;
use crate::control::data::SourceInfo;
use crate::identify::Protocol;
use crate::policy::{Action, Claim, Host, Policy, Question, Transport, Widened, Widening};

/// How far the clock may be from where it should be: more is a step, or the machine slept.
const STEP: Duration = Duration::from_secs(2);

/// Time between two self-tests.
const SELF_TEST: Duration = Duration::from_secs(3600);

/// What no policy opens: the metadata service of clouds, a guard.
const REFUSED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);

/// Rows of what a reload widened that are in its record.
const WIDENED_MAX: usize = 40;

/// What was last recorded.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Tables in force, by name.
    tables: BTreeMap<String, Table>,
    /// How the probes of the capture ended.
    probes: BTreeMap<String, bool>,
    /// When the clock was looked at.
    clock: Option<(Timestamp, Instant)>,
    self_test: Option<Instant>,
    /// Waivers that hold, by the name of their rule.
    waivers: BTreeMap<String, Waiver>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    digest: String,
    rows: u64,
    as_of: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiver {
    owner: Option<String>,
    until: Option<Timestamp>,
}

fn event(account: &Account, event: &'static str, fields: Value) {
    if let Value::Object(fields) = fields {
        account.event(event, &fields);
    }
}

fn instant(at: Timestamp) -> String {
    format!("{at:.3}")
}

impl Told {
    /// Records each table that another one is in force of.
    pub(super) fn tables<'a>(
        &mut self,
        account: &Account,
        infos: impl IntoIterator<Item = &'a SourceInfo>,
    ) {
        let table = |info: &SourceInfo| Table {
            digest: info.digest.clone(),
            rows: info.rows,
            as_of: info.as_of,
        };
        let now: BTreeMap<String, Table> =
            infos.into_iter().map(|info| (info.name.clone(), table(info))).collect();
        let names = now.keys().chain(self.tables.keys().filter(|name| !now.contains_key(*name)));
        for name in names {
            let (is, was) = (now.get(name), self.tables.get(name));
            if is.map(|is| &is.digest) == was.map(|was| &was.digest) {
                continue;
            }
            let fields = json!({
                "table": name,
                "digest": is.map(|is| &is.digest),
                "before": was.map(|was| &was.digest),
                "rows": is.map(|is| is.rows),
                "as_of": is.and_then(|is| is.as_of).map(instant),
            });
            event(account, "table", fields);
        }
        self.tables = now;
    }

    /// Records each way on which the probe of the capture ends otherwise than before.
    pub(super) fn probes<'a>(
        &mut self,
        account: &Account,
        ways: impl IntoIterator<Item = (&'a str, bool)>,
    ) {
        for (way, held) in ways {
            if self.probes.insert(way.to_owned(), held) != Some(held) {
                event(account, "probe", json!({ "way": way, "held": held }));
            }
        }
    }

    /// Records a step of the clock, against the time that has passed.
    pub(super) fn clock(&mut self, account: &Account, now: Timestamp, monotonic: Instant) {
        let Some((then, at)) = self.clock.replace((now, monotonic)) else { return };
        let passed = monotonic.saturating_duration_since(at).as_millis();
        let step = i128::from(now.as_millisecond() - then.as_millisecond())
            - i128::try_from(passed).unwrap_or(i128::MAX);
        if step.unsigned_abs() > STEP.as_millis() {
            let step = i64::try_from(step).unwrap_or(i64::MAX);
            event(account, "clock", json!({ "step_ms": step }));
        }
    }

    /// Once an hour, records how the policy in force judges what must be refused, and how the probes of
    /// the capture ended.
    pub(super) fn self_test(&mut self, account: &Account, policy: &Policy, now: Instant) {
        if self.self_test.is_some_and(|at| now.saturating_duration_since(at) < SELF_TEST) {
            return;
        }
        self.self_test = Some(now);
        let verdict = policy.decide(&Question {
            client: None,
            destination: REFUSED,
            transport: Transport::Tcp,
            protocol: Protocol::Other,
            name: Claim::Unread,
            ech: false,
        });
        let holds = verdict.action() == Action::Block && self.probes.values().all(|held| *held);
        if !holds {
            tracing::error!(
                verdict = verdict.action().label(),
                "the self-test fails: what must be refused is not"
            );
        }
        let fields = json!({
            "policy": policy.version(),
            "destination": REFUSED.to_string(),
            "verdict": verdict.action().label(),
            "reason": verdict.reason().label(),
            "probes": self.probes,
            "holds": holds,
        });
        event(account, "self-test", fields);
    }

    /// Records each waiver that holds no longer.
    pub(super) fn waivers(&mut self, account: &Account, config: &Config, now: Timestamp) {
        let holds = |rule: &&crate::control::config::Rule| {
            rule.is_waiver()
                && rule.since.is_none_or(|since| since <= now)
                && rule.until.is_none_or(|until| now < until.0)
        };
        let waiver = |rule: &crate::control::config::Rule| Waiver {
            owner: rule.owner.clone(),
            until: rule.until.map(|until| until.0),
        };
        let held: BTreeMap<String, Waiver> = config
            .rules
            .iter()
            .filter(holds)
            .map(|rule| (rule.name.clone(), waiver(rule)))
            .collect();
        for (rule, waiver) in self.waivers.iter().filter(|(rule, _)| !held.contains_key(*rule)) {
            let is_over = waiver.until.is_some_and(|until| until <= now);
            let fields = json!({
                "rule": rule,
                "owner": waiver.owner,
                "until": waiver.until.map(instant),
                "cause": if is_over { "until" } else { "removed" },
            });
            account.waiver_ended(rule);
            account.metrics().waiver_expires(rule, 0.0);
            event(account, "waiver-ended", fields);
        }
        for (rule, waiver) in &held {
            if let Some(until) = waiver.until.filter(|_| self.waivers.get(rule) != Some(waiver)) {
                account.metrics().waiver_expires(rule, until.as_second() as f64);
            }
        }
        self.waivers = held;
    }
}

/// Records how the capture stands, where that changed.
pub(super) fn capture(account: &Account, stands: bool, how: &str) {
    event(account, "capture", json!({ "stands": stands, "how": how }));
}

/// What a reload widened, as fields of its record.
pub(super) fn widened(widening: &Widening) -> Map<String, Value> {
    let rows: Vec<Value> = widening.widened.iter().take(WIDENED_MAX).map(row).collect();
    let more = widening.widened.len() - rows.len();
    let exact = widening.inexact.is_none();
    let fields = [
        ("widened", if exact { rows.into() } else { Value::Null }),
        ("widened_more", if exact { more.into() } else { Value::Null }),
        ("widened_unknown", widening.inexact.into()),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn row(row: &Widened) -> Value {
    let (names, host) = match &row.host {
        Host::Any => ("any", None),
        Host::Unread => ("unread", None),
        Host::Unnamed => ("unnamed", None),
        Host::Pattern(pattern) => ("bound", Some(pattern)),
        Host::Claimed(pattern) => ("claimed", Some(pattern)),
    };
    let port = |ports: &std::ops::RangeInclusive<u16>| {
        let (first, last) = (ports.start(), ports.end());
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let codes: Vec<&str> = row.codes.iter().map(|country| country.code()).collect();
    json!({
        "group": row.group,
        "names": names,
        "host": host,
        "location": codes,
        "anycast": row.anycast,
        "operator": Some(&row.operator).filter(|operator| !operator.is_empty()),
        "transport": row.transport.label(),
        "ports": row.ports.iter().map(port).collect::<Vec<_>>().join(","),
        "verdict": row.action.label(),
        "reason": row.reason.label(),
        "rule": row.rule,
        "ipv4_addresses": row.v4,
        "ipv6_networks": row.v6_networks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config;
    use crate::evidence::{self, Sink};

    const LIMIT: Duration = Duration::from_secs(60);

    /// An account whose record is in a directory, and the records once it is closed.
    fn recorded(tell: impl FnOnce(&Account, &mut Told)) -> Vec<Value> {
        let dir = tempfile::tempdir().unwrap();
        let account = Account::start(Box::new(std::io::sink())).unwrap();
        let settings = evidence::Settings::new(dir.path().to_owned());
        assert!(account.keep(Sink::start(&settings, false).unwrap()));
        tell(&account, &mut Told::default());
        assert!(account.close(LIMIT));
        let segments = evidence::Segment::all(dir.path()).unwrap();
        let records = segments.iter().flat_map(|segment| segment.records().unwrap());
        let records: Vec<u8> = records.collect();
        let records = evidence::lines(&records).map(|line| serde_json::from_slice(line).unwrap());
        records.filter(|record: &Value| record["event"] != "segment").collect()
    }

    fn info(name: &str, digest: &str) -> SourceInfo {
        SourceInfo {
            name: name.to_owned(),
            origin: None,
            as_of: Some(Timestamp::UNIX_EPOCH),
            dated_by_file: false,
            rows: 3,
            licence: None,
            digest: digest.to_owned(),
            files: Vec::new(),
        }
    }

    #[test]
    fn a_table_is_told_of_when_it_comes_changes_and_goes() {
        let records = recorded(|account, told| {
            told.tables(account, &[info("a", "1"), info("b", "1")]);
            told.tables(account, &[info("a", "1"), info("b", "2")]);
            told.tables(account, &[info("b", "2")]);
        });
        let seen: Vec<_> = records
            .iter()
            .map(|one| {
                (one["table"].as_str().unwrap(), one["before"].clone(), one["digest"].clone())
            })
            .collect();
        let none = Value::Null;
        let wanted = [
            ("a", none.clone(), json!("1")),
            ("b", none.clone(), json!("1")),
            ("b", json!("1"), json!("2")),
            ("a", json!("1"), none),
        ];
        assert_eq!(seen, wanted);
        assert_eq!((&records[0]["rows"], &records[3]["rows"]), (&json!(3), &Value::Null));
    }

    #[test]
    fn a_clock_that_jumps_either_way_is_told_of_and_time_that_passes_is_not() {
        let (wall, monotonic) = (Timestamp::now(), Instant::now());
        let after = |wall_s: i64, s: u64| {
            (wall + jiff::SignedDuration::from_secs(wall_s), monotonic + Duration::from_secs(s))
        };
        let records = recorded(|account, told| {
            for (wall, monotonic) in [
                after(0, 0),
                after(7200, 7200),
                after(7201, 7202),
                after(17_203, 7204),
                after(10, 7206),
            ] {
                told.clock(account, wall, monotonic);
            }
        });
        let steps: Vec<_> = records.iter().map(|one| one["step_ms"].as_i64().unwrap()).collect();
        assert_eq!(steps, [10_000_000, -17_195_000]);
    }

    #[test]
    fn a_waiver_that_is_over_or_gone_is_told_of_once_and_then_used_for_the_first_time_again() {
        let config = |rules: &str| {
            let text = format!("schema = 1\n[policy]\npermit = ['FR']\n{rules}");
            config::parse(&text, None).unwrap().config
        };
        let rule = "[[rule]]\nname = 'w'\nowner = 'IT'\nreason = 'x'\nuntil = 2999-01-01\n\
                    to = ['203.0.113.0/24']\naction = 'allow'\n";
        let (with, without) = (config(rule), config(""));
        let late: Timestamp = "2999-06-01T00:00:00Z".parse().unwrap();
        let records = recorded(|account, told| {
            told.waivers(account, &with, Timestamp::now());
            told.waivers(account, &with, late);
            told.waivers(account, &with, Timestamp::now());
            told.waivers(account, &without, Timestamp::now());
            told.waivers(account, &without, Timestamp::now());
        });
        let causes: Vec<_> = records.iter().map(|one| one["cause"].as_str().unwrap()).collect();
        assert_eq!(causes, ["until", "removed"]);
        assert!(
            records.iter().all(|one| one["rule"] == "w" && one["owner"] == "IT"),
            "{records:?}"
        );
    }

    #[test]
    fn the_self_test_comes_once_an_hour_and_fails_where_a_probe_came_through() {
        let text = "schema = 1\n[policy]\nmode = 'observe'\npermit = ['FR']\n";
        let loaded = config::parse(text, None).unwrap();
        let now = Timestamp::now();
        let sources = crate::control::data::Sources::default();
        let compiler =
            crate::control::compile::Compiler::new(loaded.config, sources, text, Vec::new(), now);
        let policy = compiler.policy_at(now);
        let begun = Instant::now();
        let records = recorded(|account, told| {
            told.probes(account, [("tcp4", true)]);
            told.self_test(account, &policy, begun);
            told.self_test(account, &policy, begun + Duration::from_secs(3599));
            told.probes(account, [("tcp4", true), ("tcp6", false)]);
            told.self_test(account, &policy, begun + Duration::from_secs(3600));
        });
        let events: Vec<_> = records.iter().map(|one| one["event"].as_str().unwrap()).collect();
        assert_eq!(events, ["probe", "self-test", "probe", "self-test"]);
        let (first, last) = (&records[1], &records[3]);
        assert_eq!((&first["verdict"], &first["reason"]), (&json!("block"), &json!("guard")));
        assert_eq!((&first["holds"], &last["holds"]), (&json!(true), &json!(false)));
        assert_eq!(last["probes"], json!({ "tcp4": true, "tcp6": false }));
    }
}
