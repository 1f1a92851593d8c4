//! What an account keeps, writes and counts.

use super::kept::{self, CapturedLog};
use super::*;
use crate::policy::{Action, AddressInfo, Country, Reason};

fn judged(action: Action) -> Decision {
    let destination = "198.51.100.7:443".parse().unwrap();
    let reason = if action == Action::Block { Reason::Outside } else { Reason::Permitted };
    Decision {
        verdict: Verdict::given(action, reason, destination),
        name: Some((HostName::parse(b"pacs.example").unwrap(), NameSource::Sni).into()),
        bound: Some(true),
        protocol: Protocol::Tls,
        ech: false,
        fault: None,
        context: DecisionContext::of(&Facts {
            policy: Some("abcdef012345"),
            group: Some("default"),
            rule: Some("a \"rule\"\nof two lines"),
            ..Facts::default()
        }),
    }
}

fn client() -> SocketAddr {
    "[::ffff:192.0.2.9]:40000".parse().unwrap()
}

#[test]
fn a_refused_connection_has_one_line_with_its_reason() {
    let kept = CapturedLog::default();
    let account = kept.account();
    let mut record = account.open(client(), Ingress::Tproxy);
    record.judged(judged(Action::Block));
    let id = record.id();
    record.finish(End::Refused);
    let lines = kept.lines(&account);
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    for (field, value) in [
        ("event", "refused"),
        ("id", &id),
        ("client", "192.0.2.9:40000"),
        ("listener", "tproxy"),
        ("destination", "198.51.100.7:443"),
        ("host", "pacs.example"),
        ("name_source", "sni"),
        ("protocol", "tls"),
        ("verdict", "block"),
        ("reason", "outside"),
        ("end", "refused"),
        ("rule", "a \"rule\"\nof two lines"),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    assert!(line["time"].as_str().unwrap().parse::<Timestamp>().is_ok());
    assert_eq!(line["time"].as_str().unwrap().len(), "2026-01-01T00:00:00.000Z".len());
}

#[tokio::test]
async fn a_forwarded_connection_has_an_open_and_a_close_line() {
    let kept = CapturedLog::default();
    let account = kept.account();
    let mut record = account.open(client(), Ingress::Redirect);
    record.judged(judged(Action::Allow));
    record.forwarding().await.unwrap();
    record.bytes().up(3);
    record.bytes().down(5);
    record.finish(End::Done);
    let lines = kept.lines(&account);
    let events: Vec<_> = lines.iter().map(|l| l["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["open", "close"]);
    assert_eq!(lines[0]["end"], serde_json::Value::Null);
    assert_eq!(
        (&lines[1]["bytes_up"], &lines[1]["bytes_down"]),
        (&3.into(), &5.into()),
        "{lines:?}"
    );
    let text = account.metrics().render();
    assert!(text.contains("schengate_bytes_total{direction=\"up\"} 3"), "{text}");
    assert!(text.contains("schengate_connections_active 0"), "{text}");
}

/// The line that ends a connection to these countries, which answered in this time, of a gateway in
/// Munich.
fn ended_after(location: &[&str], anycast: bool, round_trip: u32) -> serde_json::Value {
    let kept = CapturedLog::default();
    let account = kept.account();
    assert!(account.stand_at("48.14,11.58".parse().unwrap()));
    assert!(!account.stand_at("0,0".parse().unwrap()), "it was said already");
    let mut record = account.open(client(), Ingress::Tproxy);
    let codes = location.iter().filter_map(|code| Country::from_code(code)).collect();
    let place = AddressInfo { codes, anycast, ..AddressInfo::default() };
    let context = DecisionContext::of(&Facts { place, ..Facts::default() });
    record.judged(Decision { context, ..judged(Action::Allow) });
    record.reached_within(NonZeroU32::new(round_trip));
    record.finish(End::Done);
    kept.lines(&account).remove(0)
}

#[test]
fn a_round_trip_that_is_too_short_for_every_country_is_recorded_as_contradicting() {
    let told = |location: &[&str], anycast, round_trip| {
        ended_after(location, anycast, round_trip).get("rtt_contradicts").cloned()
    };
    assert_eq!(told(&["US"], false, 5_000), Some(serde_json::json!(["US"])));
    assert_eq!(told(&["ES", "US"], false, 5_000), Some(serde_json::json!(["ES", "US"])));
    assert_eq!(told(&["DE", "US"], false, 5_000), None);
    assert_eq!(told(&["US"], false, 100_000), None);
    assert_eq!(told(&["US"], true, 5_000), None, "it answers from many places");
    assert_eq!(told(&["US"], false, 0), None, "nothing was measured");
    assert_eq!(told(&[], false, 5_000), None);
}

#[test]
fn a_record_that_is_dropped_says_so() {
    let kept = CapturedLog::default();
    let account = kept.account();
    drop(account.open(client(), Ingress::Proxy));
    let lines = kept.lines(&account);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["event"], "unjudged");
    assert_eq!(lines[0]["end"], "aborted");
    assert_eq!(lines[0]["verdict"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_later_judgement_waits_for_room_and_displaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let account = CapturedLog::default().account();
    let first = Sink::start(&evidence::Settings::new(dir.path().to_owned()), false).unwrap();
    let sink = Sink::start(&evidence::Settings::new(dir.path().to_owned()), true).unwrap();
    assert!(account.keep(sink.clone()));
    let mut record = account.open(client(), Ingress::Tproxy);
    let again = judged(Action::Allow);
    record.judged(judged(Action::Allow));
    let tell = |record: &Record| account.judged_again(record.bytes(), &again, Rejudged::Policy);
    assert!(!tell(&record), "its open line is not there");
    record.forwarding().await.unwrap();
    let much = serde_json::Map::from_iter([("cause".to_owned(), "x".repeat(40_000).into())]);
    while !sink.is_pressed() {
        account.event("reload-failed", &much);
    }
    assert!(!tell(&record));
    assert!(first.close(Duration::from_secs(60)));
    assert!(sink.flush(Duration::from_secs(60)));
    assert!(tell(&record));
    record.finish(End::Done);
    assert!(account.close(Duration::from_secs(60)));
    let segments = evidence::Segment::all(dir.path()).unwrap();
    let records: Vec<u8> = segments.iter().flat_map(|one| one.records().unwrap()).collect();
    let is_update = |line: &&[u8]| line.windows(15).any(|part| part == b"\"cause\":\"policy");
    assert_eq!(evidence::lines(&records).filter(is_update).count(), 1);
}

/// How a record is kept in a directory.
fn settings(dir: &tempfile::TempDir) -> evidence::Settings {
    let directory = dir.path().to_owned();
    let interval = Duration::from_secs(10);
    evidence::Settings { interval, ..evidence::Settings::new(directory) }
}

#[tokio::test]
async fn what_lives_is_recorded_once_more_each_interval() {
    let dir = tempfile::tempdir().unwrap();
    let kept = CapturedLog::default();
    let account = kept.account();
    assert!(account.keep(Sink::start(&settings(&dir), false).unwrap()));
    account.show(View::Refused);
    let mut record = account.open(client(), Ingress::Tproxy);
    record.stands_for(0, Instant::now().checked_sub(Duration::from_secs(25)).unwrap());
    record.judged(judged(Action::Allow));
    account.live(record.bytes());
    record.forwarding().await.unwrap();
    record.bytes().up(7);
    account.live(record.bytes());
    account.live(record.bytes());
    let id = record.id();
    record.finish(End::Done);
    account.event("stop", &serde_json::Map::new());
    assert!(account.close(Duration::from_secs(60)));
    let segments = evidence::Segment::all(dir.path()).unwrap();
    let records = segments[0].records().unwrap();
    let records: Vec<serde_json::Value> =
        evidence::lines(&records).map(|line| serde_json::from_slice(line).unwrap()).collect();
    let events: Vec<_> = records.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["segment", "open", "update", "close", "stop"]);
    assert_eq!((&records[2]["id"], &records[2]["bytes_up"]), (&id.into(), &7.into()));
    assert!(kept.lines(&account).is_empty(), "people are shown what is refused");
    let text = account.metrics().render();
    assert!(!text.contains("schengate_audit_records_total 5"), "nobody asked yet: {text}");
    assert_eq!(account.fares().unwrap().records, 5);
    let text = account.metrics().render();
    assert!(text.contains("schengate_audit_records_total 5"), "{text}");
    assert!(text.contains("schengate_audit_head_size 5"), "{text}");
}

#[tokio::test]
async fn a02_what_cannot_be_recorded_is_not_forwarded_and_its_refusal_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let kept = CapturedLog::default();
    let account = kept.account();
    let first = kept::fill(&account, dir.path());
    let mut record = account.open(client(), Ingress::Tproxy);
    record.judged(judged(Action::Allow));
    assert_eq!(record.forwarding().await, Err(End::Refused));
    let verdict = record.judgement().unwrap().verdict;
    assert_eq!((verdict.action(), verdict.reason()), (Action::Block, Reason::Record));
    record.finish(End::Refused);
    let lines = kept.lines(&account);
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["refused"]);
    assert!(account.fares().unwrap().fault.is_some());
    assert!(first.close(Duration::from_secs(60)));
    assert!(account.close(Duration::from_secs(60)));
    let text = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let text = text.filter_map(|path| std::fs::read_to_string(path).ok()).collect::<String>();
    assert!(text.contains("\"event\":\"refused\"") && !text.contains("\"event\":\"open\""));
}

/// The records of a directory.
fn kept_in(dir: &tempfile::TempDir) -> Vec<serde_json::Value> {
    let segments = evidence::Segment::all(dir.path()).unwrap();
    let records: Vec<u8> = segments.iter().flat_map(|segment| segment.records().unwrap()).collect();
    evidence::lines(&records).map(|line| serde_json::from_slice(line).unwrap()).collect()
}

#[test]
fn a10_refusals_that_are_alike_are_one_record_with_their_number_where_the_disk_is_slow() {
    let dir = tempfile::tempdir().unwrap();
    let account = CapturedLog::default().account();
    account.show(View::Nothing);
    let first = Sink::start(&settings(&dir), false).unwrap();
    assert!(account.keep(Sink::start(&settings(&dir), true).unwrap()));
    let refuse = |client: &str, name: &str| {
        let mut record = account.open(client.parse().unwrap(), Ingress::Tproxy);
        let name = HostName::parse(name.as_bytes()).unwrap();
        let name = Some((name, NameSource::Sni).into());
        record.judged(Decision { name, ..judged(Action::Block) });
        record.finish(End::Refused);
    };
    // Nobody takes lines away: the first have one each, and the rest are counted.
    for number in 0..20_000 {
        refuse(&format!("192.0.2.9:{}", 1024 + number), "pacs.example");
    }
    for number in 0..300 {
        refuse("198.51.100.77:5000", if number % 3 == 0 { "a.example" } else { "b.example" });
    }
    refuse("198.51.100.78:5000", "once.example");
    assert!(first.close(Duration::from_secs(60)));
    assert!(account.close(Duration::from_secs(60)));
    let records = kept_in(&dir);
    let of = |client: &str, name: &str| -> Vec<_> {
        let is = |line: &&serde_json::Value| {
            line["client"].as_str().is_some_and(|at| at.starts_with(client)) && line["host"] == name
        };
        records.iter().filter(is).collect()
    };
    let count = |lines: &[&serde_json::Value]| -> u64 {
        lines.iter().map(|line| line["count"].as_u64().unwrap_or(1)).sum()
    };
    let flood = of("192.0.2.9:", "pacs.example");
    assert_eq!(count(&flood), 20_000);
    assert!(flood.len() < 8_000, "{} lines", flood.len());
    let folded: Vec<_> = flood.iter().filter(|line| line["count"].is_u64()).collect();
    assert_eq!(folded.len(), 1);
    let time = |field: &str| folded[0][field].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(time("time") == time("first") && time("first") <= time("last"));
    for (name, many) in [("a.example", 100), ("b.example", 200)] {
        let lines = of("198.51.100.77:", name);
        assert_eq!((lines.len(), count(&lines)), (1, many));
    }
    assert!(of("198.51.100.78:", "once.example")[0]["count"].is_null());
    assert!(records.iter().all(|line| line["event"] != "gap"), "nothing is lost");
}

#[tokio::test]
async fn one_client_cannot_take_the_room_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let account = CapturedLog::default().account();
    account.show(View::Nothing);
    let first = Sink::start(&settings(&dir), false).unwrap();
    assert!(account.keep(Sink::start(&settings(&dir), true).unwrap()));
    let open = async |client: &str| {
        let mut record = account.open(client.parse().unwrap(), Ingress::Tproxy);
        record.judged(judged(Action::Allow));
        let opened = record.forwarding().await.is_ok();
        record.finish(if opened { End::Done } else { End::Refused });
        opened
    };
    // The flood of one /64, until it is refused.
    let mut flood = 0;
    while open(&format!("[2001:db8::{flood:x}]:40000")).await {
        flood += 1;
        assert!(flood < 100_000);
    }
    for other in 0..100 {
        assert!(open(&format!("192.0.2.{other}:40000")).await, "client {other}");
    }
    assert!(!open("[2001:db8::ffff]:40000").await, "it has had its share");
    assert!(first.close(Duration::from_secs(60)));
    assert!(account.close(Duration::from_secs(60)));
    let records = kept_in(&dir);
    let many = |event: &str| records.iter().filter(|line| line["event"] == event).count();
    assert_eq!((many("open"), many("close")), (flood + 100, flood + 100));
    assert_eq!((many("refused"), many("gap")), (1, 0), "the two refusals are alike");
}

#[test]
fn ids_are_never_given_twice() {
    let account = CapturedLog::default().account();
    let ids: HashSet<_> = (0..100).map(|_| account.open(client(), Ingress::Proxy).id()).collect();
    assert_eq!(ids.len(), 100);
}

/// The series of the metrics, without their values.
fn series(account: &Account) -> std::collections::BTreeSet<String> {
    let text = account.metrics().render();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

#[test]
fn a09_neither_names_nor_clients_make_series() {
    let account = CapturedLog::default().account();
    let connect = |number: u32| {
        let octets = number.to_be_bytes();
        let client = SocketAddr::from(([10, octets[1], octets[2], octets[3]], 40_000));
        let mut record = account.open(client, Ingress::Tproxy);
        let name = format!("n{number}.example");
        let name = HostName::parse(name.as_bytes()).unwrap();
        let action = if number.is_multiple_of(2) { Action::Allow } else { Action::Block };
        record.judged(Decision { name: Some((name, NameSource::Sni).into()), ..judged(action) });
        record.finish(if number.is_multiple_of(2) { End::Done } else { End::Refused });
    };
    (0..2).for_each(connect);
    let before = series(&account);
    (2..50_000).for_each(connect);
    assert_eq!(series(&account), before);
    assert!(before.len() < 3000, "{}", before.len());
}

#[test]
fn a01_what_is_recorded_while_nobody_writes_is_there_in_order_once_somebody_does() {
    const LINES: usize = 5000;
    let dir = tempfile::tempdir().unwrap();
    let account = CapturedLog::default().account();
    let first = kept::hold(&account, dir.path());
    for number in 0..LINES {
        let fields = serde_json::Map::from_iter([("number".to_owned(), number.into())]);
        account.event("stop", &fields);
    }
    assert!(first.close(Duration::from_secs(60)));
    let fields = serde_json::Map::from_iter([("number".to_owned(), LINES.into())]);
    account.event("stop", &fields);
    let records = kept::records(&account, dir.path());
    let numbers = records.iter().filter_map(|record| record["number"].as_u64());
    assert!(numbers.eq(0..=LINES as u64), "{} records", records.len());
    assert!(records.iter().all(|record| record["event"] != "gap"));
}

#[tokio::test]
async fn one_client_s_flood_displaces_nobody_s_line_and_is_counted_whole() {
    const FLOOD: u64 = 12_000;
    let dir = tempfile::tempdir().unwrap();
    let account = CapturedLog::default().account();
    account.show(View::Nothing);
    let settings = evidence::Settings::new(dir.path().to_owned());
    // Nobody writes meanwhile: a disk that is slower than any flood.
    let first = Sink::start(&settings, false).unwrap();
    assert!(account.keep(Sink::start(&settings, true).unwrap()));
    let ask = async |client: SocketAddr| {
        let mut record = account.open(client, Ingress::Tproxy);
        record.judged(judged(Action::Allow));
        let kept = record.forwarding().await;
        let id = record.id();
        record.finish(if kept.is_ok() { End::Done } else { End::Refused });
        (id, kept.is_ok())
    };
    let mut let_go = 0;
    for _ in 0..FLOOD {
        let_go += u64::from(ask(client()).await.1);
    }
    assert!(let_go < FLOOD / 2, "there is more than is taken: {let_go}");
    let mut others = Vec::new();
    for number in 0..200 {
        let (id, is_kept) = ask(SocketAddr::from(([10, 1, 0, number], 40_000))).await;
        assert!(is_kept, "{number}");
        others.push(id);
    }
    assert!(first.close(Duration::from_secs(60)));
    let records = kept::records(&account, dir.path());
    let opened: Vec<&str> = records
        .iter()
        .filter(|record| record["event"] == "open")
        .map(|record| record["id"].as_str().unwrap())
        .collect();
    assert!(others.iter().all(|id| opened.contains(&&**id)));
    assert!(records.iter().all(|record| record["event"] != "gap"));
    let refused = records.iter().filter(|record| record["event"] == "refused");
    let refused: u64 = refused.map(|record| record["count"].as_u64().unwrap_or(1)).sum();
    assert_eq!(let_go + refused, FLOOD);
    assert_eq!(opened.len() as u64, let_go + others.len() as u64);
}
