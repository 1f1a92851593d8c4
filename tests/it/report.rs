//! `schengate report`: its numbers are those of the register by SQL, its pages say what is so, and what
//! clients wrote is text in all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use schengate::evidence::register::{Register, register_path};
use schengate::evidence::{Kind, Settings, Sink};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// 2026-09-01T00:00:00Z and 2026-10-01T00:00:00Z.
const SEPTEMBER: (i64, i64) = (1_788_220_800, 1_790_812_800);

/// Names that a client may send, each meant to be more than text somewhere.
const HOSTILE: [&str; 5] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(2)>",
    "=HYPERLINK(\"http://x\")",
    "\u{202e}moc.elpmaxe\u{1b}[2J",
    "</style><b>bold",
];

/// A destination: name, location, operator, law, basis, rule, verdict, reason.
type Kindness = (
    &'static str,
    &'static [&'static str],
    &'static str,
    &'static [&'static str],
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const DESTINATIONS: [Kindness; 16] = [
    ("imaging.example.de", &["DE"], "hetzner", &["DE"], "", "", "allow", "permitted"),
    ("archive.example.fr", &["FR"], "ovhcloud", &["FR"], "", "", "allow", "permitted"),
    ("updates.example.nl", &["NL"], "leaseweb", &["NL"], "", "", "allow", "permitted"),
    (
        "mail.example.ie",
        &["IE"],
        "microsoft",
        &["IE", "US"],
        "Art. 46(2)(c) GDPR",
        "office",
        "allow",
        "rule",
    ),
    (
        "cdn.example.com",
        &["DE", "FR", "NL"],
        "akamai",
        &["US"],
        "Art. 45 GDPR (DPF)",
        "cdn",
        "allow",
        "rule",
    ),
    (
        "research.example.edu",
        &["US"],
        "amazon",
        &["US"],
        "Art. 49(1)(a) GDPR",
        "trial-2026",
        "allow",
        "waiver",
    ),
    ("old.example.us", &["US"], "google", &["US"], "", "gone-waiver", "allow", "waiver"),
    ("pacs.internal", &[], "", &[], "", "", "allow", "private"),
    ("telemetry.example.us", &["US"], "google", &["US"], "", "", "block", "outside"),
    ("ads.example.sg", &["SG"], "alibaba", &["CN", "SG"], "", "", "block", "outside"),
    ("vpn.example.ch", &["CH"], "cloudflare", &["US"], "", "", "block", "law"),
    ("nowhere.example", &[], "", &[], "", "", "block", "unknown"),
    ("edge.example.net", &[], "fastly", &["US"], "", "", "log", "anycast"),
    ("odd.example", &["ZZ"], "x", &["QQ"], "", "", "log", "disputed"),
    ("mt.example.mt", &["MT"], "melita", &["MT"], "", "", "allow", "permitted"),
    ("", &["SE"], "bahnhof", &["SE"], "", "", "allow", "permitted"),
];

/// Numbers that look like chance and are the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn time(second: i64) -> String {
    format!("{:.3}", jiff::Timestamp::from_second(second).unwrap())
}

fn put(sink: &Sink, record: &Value) {
    let text = record.to_string();
    assert!(sink.line(Kind::Other, |buffer| buffer.extend_from_slice(text.as_bytes())).is_ok());
}

/// A month of a hospital and two weeks before it, with what happened to its gateway.
fn month(sink: &Sink, connections: u64) {
    let mut chance = Chance(7);
    let (from, to) = SEPTEMBER;
    let begin = from - 14 * 86_400;
    let told = |event: &str, at: i64, more: Value| {
        let mut record = json!({ "event": event, "id": format!("19a-{at}"), "time": time(at) });
        record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        record
    };
    put(
        sink,
        &told(
            "start",
            begin,
            json!({ "policy": "sha256:1111", "mode": "enforce", "version": "0.1.0" }),
        ),
    );
    for table in ["country", "operators <b>"] {
        put(
            sink,
            &told(
                "table",
                begin,
                json!({ "table": table, "digest": "a".repeat(64), "before": null, "rows": 5,
            "as_of": "2026-08-01T00:00:00Z" }),
            ),
        );
    }
    let mut after = vec![
        (
            from + 5 * 86_400,
            "reload",
            json!({ "policy": "sha256:2222", "mode": "observe", "before": "sha256:1111", "widened": [] }),
        ),
        (
            from + 5 * 86_400 + 7200,
            "reload",
            json!({ "policy": "sha256:3333", "mode": "enforce", "before": "sha256:2222", "widened": [] }),
        ),
        (from + 12 * 86_400, "gap", json!({ "lost": 3, "cause": "the disk was full" })),
        (from + 20 * 86_400, "stop", json!({ "policy": "sha256:3333", "mode": "enforce" })),
        (
            from + 20 * 86_400 + 5400,
            "start",
            json!({ "policy": "sha256:3333", "mode": "enforce", "version": "0.1.0" }),
        ),
        (
            from + 21 * 86_400,
            "waiver-ended",
            json!({ "rule": "gone-waiver", "owner": "Dr. <i>Gone</i>", "until": "2026-09-22T00:00:00Z", "cause": "until" }),
        ),
    ];
    let span = (to - begin).unsigned_abs();
    for number in 0..connections {
        let at = begin + i64::try_from(span * number / connections).unwrap();
        while after.first().is_some_and(|(then, ..)| *then <= at) {
            let (then, event, more) = after.remove(0);
            put(sink, &told(event, then, more));
        }
        // Two of them come in September alone, the odd ones more seldom.
        let which = if at < from { chance.below(8) } else { chance.below(20).min(15) };
        let (name, location, operator, law, basis, rule, verdict, reason) =
            DESTINATIONS[which as usize];
        let name = match chance.below(40) {
            0 if reason == "permitted" => HOSTILE[chance.below(5) as usize].to_owned(),
            1..12 if which < 3 => format!("host-{}.example.de", chance.below(400)),
            _ => name.to_owned(),
        };
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let group = ["radiology", "laboratory", "default"][chance.below(3) as usize];
        let record = |event: &str, at: i64, up: u64, down: u64| {
            json!({ "event": event, "id": format!("19a-{number}"), "time": time(at),
                "client": format!("10.0.{}.9:50000", number % 200), "listener": "tproxy", "transport": "tcp",
                "destination": "203.0.113.7:443", "host": text(&name), "location": location,
                "anycast": reason == "anycast", "operator": text(operator), "asn": 64500, "law": law,
                "policy": "sha256:3333", "group": group, "rule": text(rule), "basis": text(basis),
                "verdict": verdict, "reason": reason, "mode": "enforce", "bytes_up": up,
                "bytes_down": down, "duration_ms": 1000, "end": null, "queries": null })
        };
        let (up, down) = (chance.below(4_000_000), chance.below(900_000));
        if number % 101 == 100 {
            // It ended before anybody judged it, for no group.
            let mut unjudged = record("unjudged", at, 0, 0);
            for field in ["group", "verdict", "reason", "location", "operator", "law"] {
                unjudged[field] = Value::Null;
            }
            put(sink, &unjudged);
            continue;
        }
        if verdict == "block" {
            let mut refused = record("refused", at, 0, 0);
            if chance.below(3) == 0 {
                refused["count"] = 7.into();
                refused["first"] = time(at - 4).into();
                refused["last"] = time(at).into();
            }
            put(sink, &refused);
        } else {
            put(sink, &record("open", at, 0, 0));
            if chance.below(4) == 0 {
                put(
                    sink,
                    &json!({ "event": "update", "id": format!("19a-{number}"), "time": time(at + 3600),
                    "bytes_up": up / 2, "bytes_down": down / 3, "duration_ms": 5 }),
                );
            }
            let mut close = record("close", at + 4000, up, down);
            if name == "research.example.edu" {
                close["rtt_contradicts"] = json!(location);
            }
            put(sink, &close);
        }
    }
    for (then, event, more) in after {
        put(sink, &told(event, then, more));
    }
}

const POLICY: &str = "schema = 1
[policy]
permit = [\"eea\"]
mode = \"enforce\"

[[rule]]
name = \"trial-2026\"
action = \"allow\"
host = [\"research.example.edu\"]
basis = \"Art. 49(1)(a) GDPR\"
reason = \"Clinical trial, arm <b>2</b>\"
owner = \"Prof. Example, cardiology\"
until = 2031-01-01T00:00:00Z

[[rule]]
name = \"never-used\"
action = \"allow\"
host = [\"unused.example\"]
basis = \"Art. 49(1)(d) GDPR\"
owner = \"IT operations\"
until = 2031-01-01T00:00:00Z
";

/// A log with its register; the files that belong to it are in the folder of the second path.
fn log(connections: u64) -> (tempfile::TempDir, PathBuf) {
    log_of(connections, None)
}

/// The same, of segments of so many bytes.
fn log_of(connections: u64, segment_bytes: Option<u64>) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("audit");
    fs::create_dir(&directory).unwrap();
    let mut settings = Settings {
        name: "gateway.example".to_owned(),
        register: false,
        ..Settings::new(directory.clone())
    };
    settings.segment_bytes = segment_bytes.unwrap_or(settings.segment_bytes);
    let sink = Sink::start(&settings, false).unwrap();
    month(&sink, connections);
    assert!(sink.close(LIMIT));
    // Few names an hour are kept, so that some are summed up.
    let (mut register, _) = Register::open(&directory, 40).unwrap();
    while register.feed(&directory, u64::MAX).unwrap() {}
    fs::write(dir.path().join("policy.toml"), POLICY).unwrap();
    (dir, directory)
}

fn schengate(arguments: &[&str]) -> (i32, String, String) {
    // A clock of another time zone changes nothing.
    let mut asked = Command::new(env!("CARGO_BIN_EXE_schengate"));
    let done = asked.args(arguments).env("TZ", "Pacific/Auckland").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
}

/// A report of September.
fn september(directory: &Path, more: &[&str]) -> (i32, String, String) {
    let policy = directory.parent().unwrap().join("policy.toml");
    let mut given = vec![
        "report",
        "-d",
        directory.to_str().unwrap(),
        "--from",
        "2026-09-01",
        "--to",
        "2026-10-01",
    ];
    given.extend(["--config", policy.to_str().unwrap()]);
    given.extend(more);
    schengate(&given)
}

/// Sums by SQL: a key, and connections, opened, bytes up and down.
fn by_sql(directory: &Path, key: &str, condition: &str) -> BTreeMap<String, [i64; 4]> {
    let database = Connection::open(register_path(directory)).unwrap();
    let text = format!(
        "SELECT ifnull({key}, ''), sum(connections), sum(opened), sum(bytes_up), sum(bytes_down) \
         FROM transfer WHERE hour_seconds >= {} AND hour_seconds < {} AND {condition} GROUP BY 1",
        SEPTEMBER.0, SEPTEMBER.1
    );
    let mut select = database.prepare(&text).unwrap();
    let row = |row: &rusqlite::Row<'_>| {
        Ok((row.get(0)?, [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?]))
    };
    select.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap()
}

fn numbers(totals: &Value) -> [i64; 4] {
    ["connections", "opened", "bytes_up", "bytes_down"].map(|name| totals[name].as_i64().unwrap())
}

/// The same sums as a report has them.
fn told(parts: &Value, key: &str) -> BTreeMap<String, [i64; 4]> {
    let parts = parts.as_array().unwrap().iter();
    parts
        .map(|part| (part[key].as_str().unwrap_or_default().to_owned(), numbers(&part["totals"])))
        .collect()
}

#[test]
fn the_numbers_of_a_month_are_those_that_sql_gives() {
    let (_dir, directory) = log(3000);
    let (code, out, said) = september(&directory, &["--format", "json"]);
    assert_eq!(code, 0, "{said}");
    let report: Value = serde_json::from_str(&out).unwrap();
    for (parts, key, column) in [
        ("by_location", "location", "location"),
        ("by_law", "law", "law"),
        ("by_operator", "operator", "operator"),
        ("by_group", "group", "group_name"),
        ("by_reason", "reason", "reason"),
    ] {
        let wanted = by_sql(&directory, column, "1");
        assert!(wanted.len() > 2);
        assert_eq!(told(&report[parts], key), wanted, "{parts}");
    }
    let whole = by_sql(&directory, "''", "1").remove("").unwrap();
    assert_eq!(numbers(&report["totals"]), whole);
    let left = by_sql(
        &directory,
        "''",
        "verdict IN ('allow', 'log') AND reason NOT IN ('permitted', 'private')",
    );
    assert_eq!(numbers(&report["outside"]["totals"]), left[""]);
    assert!(left[""][2] > 0);
    let undecidable = by_sql(&directory, "''", "reason IN ('unknown', 'disputed', 'anycast')");
    assert_eq!(numbers(&report["undecidable"]["totals"]), undecidable[""]);
    let waivers = by_sql(&directory, "rule", "waiver IS NOT NULL");
    let mut used = told(&report["waivers"], "rule");
    assert_eq!(used.remove("never-used"), Some([0; 4]));
    assert_eq!(used, waivers);
    // Of a country: each row in whose location it is.
    for country in report["countries"].as_array().unwrap() {
        let code = country["country"].as_str().unwrap();
        let is_there =
            format!("verdict IN ('allow', 'log') AND ' ' || location || ' ' LIKE '% {code} %'");
        assert_eq!(numbers(&country["totals"]), by_sql(&directory, "''", &is_there)[""], "{code}");
    }
    // Each sum is that of the rows which it names.
    let rows = report["rows"].as_array().unwrap();
    for parts in [
        "by_location",
        "by_law",
        "by_operator",
        "by_group",
        "by_reason",
        "fates",
        "waivers",
        "countries",
    ] {
        for part in report[parts].as_array().unwrap() {
            let mut sum = [0; 4];
            for row in part["rows"].as_array().unwrap() {
                let row = &rows[usize::try_from(row.as_u64().unwrap()).unwrap() - 1];
                sum.iter_mut().zip(numbers(&row["totals"])).for_each(|(sum, more)| *sum += more);
            }
            assert_eq!(sum, numbers(&part["totals"]), "{parts}: {part}");
        }
    }
    // Nothing that was there before is new, and what is new was not there.
    let database = Connection::open(register_path(&directory)).unwrap();
    // What was measured to be nearer than its location is named, and to nobody outside.
    let contradicted = "SELECT sum(contradicted) FROM hourly WHERE hour >= ? AND hour < ?";
    let (from, to) = SEPTEMBER;
    let contradicted: i64 = database.query_row(contradicted, [from, to], |row| row.get(0)).unwrap();
    assert!(contradicted > 5);
    let wanted = json!([{ "operator": "amazon", "name": "research.example.edu", "location": ["US"],
        "connections": contradicted }]);
    assert_eq!((&report["contradicted"], &report["more_contradicted"]), (&wanted, &json!(0)));
    for (language, says) in [("en", "sooner than light"), ("fr", "plus tôt que la lumière")] {
        let (_, page, _) = september(&directory, &["--lang", language]);
        let (_, section) = page.split_once("id=\"contradicted\"").unwrap();
        let section = section.split_once("<section").map_or(section, |(section, _)| section);
        assert!(section.contains(says) && section.contains("research.example.edu"), "{section}");
    }
    let (_, public, _) = september(&directory, &["--preset", "transfers", "--format", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&public).unwrap()["contradicted"], json!([]));
    let first = &report["first_seen"];
    for name in first["names"].as_array().unwrap() {
        let count: i64 = database
            .query_row(
                "SELECT count(*) FROM transfer WHERE hour_seconds < ? AND name = ? AND verdict <> 'block'",
                (SEPTEMBER.0, name["name"].as_str().unwrap()),
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(count, 0, "{name}");
    }
    let countries: Vec<&str> = first["countries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["country"].as_str().unwrap())
        .collect();
    assert!(
        countries.contains(&"MT") && countries.contains(&"SE") && !countries.contains(&"DE"),
        "{countries:?}"
    );
    // What happened to the gateway.
    let seconds = &report["record"]["seconds"];
    assert_eq!((&seconds["observing"], &seconds["stopped"]), (&json!(7200), &json!(5400)));
    assert_eq!(report["record"]["gaps"][0]["lost"], 3);
    let (holds, agrees) = (&report["record"]["holds"], &report["record"]["agrees"]);
    assert_eq!((holds, agrees), (&json!(true), &json!(true)));
    assert_eq!(report["in_force"][0]["policy"], "sha256:1111");
    assert_eq!(report["tables"][0]["as_of"], "2026-08-01T00:00:00Z");
}

#[test]
fn a_page_needs_nothing_else_and_nothing_of_a_client_is_markup() {
    let (_dir, directory) = log(2000);
    for language in ["en", "fr"] {
        for preset in ["full", "transfers", "waivers", "first-seen", "group"] {
            let (code, page, said) =
                september(&directory, &["--lang", language, "--preset", preset]);
            assert_eq!(code, 0, "{said}");
            assert!(page.len() < 1_500_000, "{preset}: {} bytes", page.len());
            for markup in [
                "<script",
                "<img",
                "<i>",
                "<b>bold",
                "<b>2</b>",
                "onerror=alert(2)>",
                "\u{202e}",
                "\u{1b}",
                "src=",
                "url(",
                "@import",
            ] {
                let is_text = markup == "src=" && page.contains("img src=x");
                assert!(!page.contains(markup) || is_text, "{language} {preset}: {markup}");
            }
            assert!(page.starts_with("<!DOCTYPE html>") && page.contains("UTC"));
            // Whatever is named is there.
            for link in page.split("href=\"#").skip(1) {
                let anchor = link.split('"').next().unwrap();
                assert!(
                    page.contains(&format!("id=\"{anchor}\"")),
                    "{language} {preset}: #{anchor}"
                );
            }
        }
    }
    let (_, page, _) = september(&directory, &[]);
    let (_, french, _) = september(&directory, &["--lang", "fr"]);
    if let Some(folder) = std::env::var_os("SCHENGATE_PAGES") {
        fs::write(Path::new(&folder).join("report.html"), &page).unwrap();
        fs::write(Path::new(&folder).join("report-fr.html"), &french).unwrap();
    }
    for text in [
        "&lt;script&gt;alert(1)",
        "ZZ (unknown code)",
        "Germany, France or Netherlands",
        "Prof. Example, cardiology",
        "Clinical trial, arm &lt;b&gt;2&lt;/b&gt;",
        "never-used",
        // What holds up to a midnight holds on the day before it.
        "to the end of 2030-12-31",
        "to the end of 2026-09-21",
        "not in the policy any more",
        "Dr. &lt;i&gt;Gone",
        "sha256:2222",
        "2\u{a0}h\u{a0}00",
        "Yes. Every record is what was signed.",
        "Yes: register and record",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(french.contains("Allemagne, France ou Pays-Bas") && french.contains("lang=\"fr\""));
    // What is to be published says nothing of whose clients, by which rule, to which name.
    for format in ["html", "json", "csv"] {
        let (_, public, _) = september(&directory, &["--preset", "transfers", "--format", format]);
        for private in ["radiology", "trial-2026", "research.example", "Prof. Example", "10.0."] {
            assert!(!public.contains(private), "{format}: {private}");
        }
    }
}

#[test]
fn tables_are_no_formulae_and_one_group_is_one_group() {
    let (_dir, directory) = log(1200);
    for preset in ["full", "transfers", "waivers", "first-seen", "group"] {
        let (code, table, _) = september(&directory, &["--format", "csv", "--preset", preset]);
        assert_eq!(code, 0);
        let is_bad = |c: char| c.is_control() && c != '\r' && c != '\n' || c == '\u{202e}';
        assert!(!table.contains(is_bad), "{preset}");
        for line in table.lines() {
            let formula = line
                .split(',')
                .find(|cell| cell.trim_start_matches('"').starts_with(['=', '+', '@']));
            assert_eq!(formula, None, "{preset}");
        }
        assert!(table.lines().count() > 1, "{preset}");
    }
    let (_, out, _) = september(&directory, &["--format", "json", "--group", "radiology"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    let wanted = by_sql(&directory, "group_name", "group_name = 'radiology'");
    assert_eq!(told(&report["by_group"], "group"), wanted);
    // What ended before a verdict is of no group, and says so in the table and on the page.
    let group = |more: &[&str]| september(&directory, &[&["--preset", "group"], more].concat()).1;
    let table = group(&["--format", "csv"]);
    assert!(table.lines().any(|line| line.starts_with("\"Not judged\",")), "{table}");
    let page = group(&[]);
    assert!(page.contains("<th class=\"name\" scope=\"row\">Not judged</th>"));
    assert!(!page.contains("<th class=\"name\" scope=\"row\">None.</th>"));
    let (code, out, _) = september(&directory, &["--group", "nobody's"]);
    assert!(code == 0 && out.contains("Nothing was recorded in this period."));
}

#[test]
fn an_empty_record_and_a_span_of_nothing_are_told_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("audit");
    fs::create_dir(&directory).unwrap();
    fs::write(dir.path().join("policy.toml"), POLICY).unwrap();
    let (code, page, said) = september(&directory, &[]);
    assert!(code == 0 && page.contains("Nothing was recorded"), "{said}");
    assert!(page.contains("720\u{a0}h\u{a0}00") && page.contains("no record of it"));
    assert!(page.contains("There is no signed checkpoint."));
    let (code, out, _) = september(&directory, &["--format", "json"]);
    assert_eq!(code, 0);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["rows"], &report["record"]["holds"]), (&json!([]), &Value::Null));
    // What cannot be is said.
    assert_eq!(september(&directory, &["--from", "2026-10-02"]).0, 2);
    assert_eq!(september(&directory.join("none"), &[]).0, 2);
    fs::write(register_path(&directory), "no database").unwrap();
    assert_eq!(september(&directory, &[]).0, 2);
}

#[test]
fn a_record_that_was_changed_and_a_register_that_was_changed_are_named_on_the_page() {
    let (_dir, directory) = log(400);
    let database = Connection::open(register_path(&directory)).unwrap();
    let change = |more: i32| {
        let text = format!(
            "UPDATE hourly SET bytes_up = bytes_up + {more} WHERE (hour, label, name) = \
             (SELECT max(hour), label, name FROM hourly)"
        );
        assert_eq!(database.execute(&text, []).unwrap(), 1);
    };
    change(5);
    let (code, page, said) = september(&directory, &[]);
    assert!(
        code == 1
            && page.contains("No: register and record differ.")
            && said.contains("not as they should be")
    );
    // Who reads the first page alone is told as well, and the record itself is what was signed.
    let first = card(&page);
    assert!(first.contains("card ill"), "{first}");
    let (differs, holds) =
        (first.find("No: register and record differ."), first.find("Yes. Every record"));
    assert!(differs.zip(holds).is_some_and(|(differs, holds)| differs < holds), "{first}");
    // Who is in a hurry is told that nobody looked.
    let (code, page, _) = september(&directory, &["--quick"]);
    assert!(
        code == 0
            && page.contains("Not verified for this report.")
            && page.contains("Not compared")
    );
    change(-5);
    assert_eq!(september(&directory, &[]).0, 0);
    let segment = directory.join(format!("{:020}.jsonl", 0));
    let text = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, text.replacen("radiology", "radiologz", 1)).unwrap();
    let (code, page, _) = september(&directory, &[]);
    assert!(
        code == 1
            && page.contains("No. The record is not what was signed.")
            && page.contains("edited: record")
    );
    // Another key has signed nothing of it.
    let key = directory.parent().unwrap().join("other");
    assert_eq!(schengate(&["audit", "keygen", key.to_str().unwrap(), "--name", "other"]).0, 0);
    let public = key.with_extension("pub");
    let (code, page, _) = september(&directory, &["--quick", "--key", public.to_str().unwrap()]);
    assert!(code == 1 && page.contains("was not checked, or does not hold"));
}

/// The card of the first page that says whether the record is whole.
fn card(page: &str) -> &str {
    let at = page.find("Is the record whole?").unwrap();
    let begin = page[..at].rfind("<div").unwrap();
    &page[begin..begin + page[begin..].find("</div>").unwrap()]
}

/// The segments of a directory, the oldest first.
fn segments(directory: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let is_segment = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.ends_with(".jsonl") || name.ends_with(".jsonl.zst")
    };
    let mut segments: Vec<PathBuf> = files.filter(is_segment).collect();
    segments.sort();
    segments
}

#[test]
fn a_missing_segment_leaves_no_word_that_the_record_has_no_gap() {
    const NOTED: &str = "The log notes no lost lines.";
    let (_dir, directory) = log_of(1500, Some(100_000));
    // October notes no gap.
    let october = ["--from", "2026-10-01", "--to", "2026-10-02"];
    let report = |more: &[&str]| {
        let mut given = vec!["report", directory.to_str().unwrap()];
        given.extend(october);
        given.extend(more);
        schengate(&given)
    };
    let (code, page, said) = report(&[]);
    assert!(code == 0 && card(&page).contains(NOTED), "{said}");
    let all = segments(&directory);
    assert!(all.len() > 2, "{all:?}");
    fs::remove_file(&all[1]).unwrap();
    let (code, page, _) = report(&[]);
    assert!(code == 1 && card(&page).contains("No. The record is not what was signed."));
    assert!(page.contains("missing: record") && !page.contains(NOTED) && !page.contains("no gap"));
    let (_, page, _) = report(&["--lang", "fr"]);
    assert!(!page.contains("aucune ligne perdue"));
}

#[test]
fn a_damaged_segment_is_named_by_every_command_and_the_report_is_written() {
    let (_dir, directory) = log_of(1500, Some(100_000));
    let damaged = segments(&directory)[1].clone();
    let sealed = if damaged.extension().is_some_and(|ending| ending == "zst") {
        damaged
    } else {
        let sealed = damaged.with_extension("jsonl.zst");
        fs::write(&sealed, zstd::encode_all(&*fs::read(&damaged).unwrap(), 3).unwrap()).unwrap();
        fs::remove_file(&damaged).unwrap();
        sealed
    };
    let place = directory.to_str().unwrap();
    let public = directory.join("signing.pub");
    let verify = || schengate(&["audit", "verify", place, "--key", public.to_str().unwrap()]);
    assert_eq!(verify().0, 0);
    let key = public.to_str().unwrap();
    for given in [&["--directory", place, "--key", key][..], &["--key", key, "-d", place]] {
        assert_eq!(schengate(&[&["audit", "verify"], given].concat()).0, 0, "{given:?}");
    }
    // One byte, and one after which nobody can read it.
    let whole = fs::read(&sealed).unwrap();
    let flipped = (whole.len() / 2..whole.len()).find_map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        zstd::decode_all(&*bytes).is_err().then_some(bytes)
    });
    fs::write(&sealed, flipped.unwrap()).unwrap();
    let name = sealed.file_name().unwrap().to_str().unwrap();
    let words = format!("{} cannot be read (damaged", sealed.display());
    let what = format!("`schengate audit verify {place} --key PUB` names what is lost");
    let is_named = |more: &[&str], words: &str| {
        let (code, page, said) = september(&directory, more);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(words) && said.contains(&what), "{said}");
        let first = card(&page);
        assert!(first.contains("card ill"), "{first}");
        assert!(first.contains("A part of the record cannot be read."), "{first}");
        assert!(page.contains(name) && !page.contains("The log notes no lost lines."));
        let (_, out, _) = september(&directory, &[more, &["--format", "json"]].concat());
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(report["record"]["unreadable"].as_array().map(Vec::len), Some(1));
    };
    is_named(&[], &words);
    // In a hurry nobody looks into what the register has read, and the page says so; what cannot even be
    // opened is named all the same.
    let (code, page, said) = september(&directory, &["--quick"]);
    assert!(code == 0 && card(&page).contains("Not verified for this report."), "{said}");
    let aside = sealed.with_extension("aside");
    fs::rename(&sealed, &aside).unwrap();
    std::os::unix::fs::symlink("nowhere", &sealed).unwrap();
    is_named(&["--quick"], &format!("{} cannot be read (No such file", sealed.display()));
    fs::remove_file(&sealed).unwrap();
    fs::rename(&aside, &sealed).unwrap();
    // What is to be published names the file, and nothing else of this host.
    for form in ["html", "json", "csv"] {
        let more = ["--preset", "transfers", "--format", form];
        let (code, out, said) = september(&directory, &more);
        assert!(code == 1 && said.contains(&words), "{said}");
        assert_eq!(out.contains(name), form != "csv", "{out}");
        assert!(!out.contains(place), "{out}");
    }
    for given in [
        &["reconcile", place][..],
        &["show", "19a-3", place],
        &["tail", place],
        &["grep", "radiology", place],
        &["export", place],
        &["prove", "19a-3", place],
    ] {
        let given = [&["audit"], given].concat();
        let (code, _, said) = schengate(&given);
        assert!(code == 2 && said.contains(&words) && said.contains(&what), "{given:?}: {said}");
    }
    // They are not known to be gone: one line says which they are.
    let (code, out, _) = verify();
    assert_eq!(code, 1);
    let found: Vec<&str> = out.lines().filter(|line| line.contains(name)).collect();
    let first: u64 = name.split('.').next().unwrap().parse().unwrap();
    let next = segments(&directory)[2].file_name().unwrap().to_str().unwrap()[..20].to_owned();
    let last = next.parse::<u64>().unwrap() - 1;
    let wanted = format!("unreadable: record {first}, {name}: records {first} to {last} cannot be");
    assert!(found.len() == 1 && found[0].starts_with(&wanted), "{out}");
    assert!(!out.contains("deleted"), "{out}");
}

#[test]
fn what_is_not_there_is_said_and_not_shown_as_noughts() {
    let (dir, directory) = log(200);
    let place = directory.to_str().unwrap();
    let note = "note: no group `nosuch` in the register: there are: default, laboratory, radiology";
    let (code, _, said) = september(&directory, &["--group", "nosuch"]);
    assert!(code == 0 && said.contains(note), "{said}");
    let (code, _, said) = schengate(&["audit", "register", place, "--group", "nosuch"]);
    assert!(code == 1 && said.contains(note), "{said}");
    for given in [&["register", place, "--group", "radiology"][..], &["register", "-d", place]] {
        let (code, out, said) = schengate(&[&["audit"], given].concat());
        assert!(code == 0 && !out.is_empty() && !said.contains("no group"), "{said}");
    }
    // A directory stands where it stands, or behind -d, and not twice.
    assert_eq!(schengate(&["audit", "reconcile", place]).0, 0);
    assert_eq!(schengate(&["audit", "reconcile", place, "-d", place]).0, 2);
    for (command, says) in [
        ("show", "there is no record of \"nosuch\""),
        ("grep", "\"nosuch\" stands in no record"),
        ("prove", "there is no record of \"nosuch\""),
    ] {
        let (code, out, said) = schengate(&["audit", command, "nosuch", "-d", place]);
        assert!(code == 1 && out.is_empty() && said.contains(says), "{command}: {said}");
    }
    let public = directory.join("signing.pub");
    let (_, out, _) = schengate(&["audit", "verify", place, "--key", public.to_str().unwrap()]);
    assert!(out.contains(" in 1 segment, "), "{out}");
    // A key of which the public half is there is not made, and nothing is left of it.
    let key = dir.path().join("half.key");
    let half = dir.path().join("half.pub");
    fs::write(&half, "another").unwrap();
    let (code, _, said) = schengate(&["audit", "keygen", key.to_str().unwrap(), "--name", "half"]);
    assert!(code == 2 && said.contains(&format!("{}: File exists", half.display())), "{said}");
    assert!(!key.exists() && fs::read_to_string(&half).unwrap() == "another");
    // One where the private half is there leaves it as it was.
    fs::rename(&half, &key).unwrap();
    let (code, _, said) = schengate(&["audit", "keygen", key.to_str().unwrap(), "--name", "half"]);
    assert!(code == 2 && said.contains(&format!("{}: File exists", key.display())), "{said}");
    assert!(!half.exists() && fs::read_to_string(&key).unwrap() == "another");
}

/// What a browser measures of a page in a window of this width: its own width, the words that are broken
/// in the heading of a row, where the first column of numbers of the first table ends, and the texts of
/// drawings that are cut at the top.
fn measured(page: &str, folder: &Path, width: u32) -> Vec<i64> {
    const MEASURE: &str = "<script>onload = () => {
        let broken = 0, cut = 0;
        for (const cell of document.querySelectorAll('th.name:not(.host)')) {
            const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
            while (texts.nextNode()) {
                for (const word of texts.currentNode.data.matchAll(/\\p{L}+/gu)) {
                    const range = document.createRange();
                    range.setStart(texts.currentNode, word.index);
                    range.setEnd(texts.currentNode, word.index + word[0].length);
                    broken += range.getClientRects().length > 1;
                }
            }
        }
        for (const tick of document.querySelectorAll('.tick'))
            cut += tick.getBBox().y < tick.ownerSVGElement.viewBox.baseVal.y;
        // What is read on a telephone does not have to be pushed about.
        let pushed = 0;
        for (const box of document.querySelectorAll('section:has(#short) .scroll, section:has(#waivers) .scroll'))
            pushed += box.scrollWidth > box.clientWidth;
        const first = document.querySelector('thead th.n').getBoundingClientRect().right;
        const all = [document.documentElement.scrollWidth, broken, Math.ceil(first), cut, pushed];
        document.body.dataset.measured = all.join(' ');
    }</script></body>";
    let policy = page.find("<meta http-equiv=\"Content-Security-Policy\"").unwrap();
    let end = policy + page[policy..].find('>').unwrap() + 1;
    let page = format!("{}{}", &page[..policy], &page[end..]);
    let page = page.replace("</style>", "html{overflow-y:hidden}</style>");
    let file = folder.join("measured.html");
    fs::write(&file, page.replace("</body>", MEASURE)).unwrap();
    let ran = Command::new("chromium-headless-shell")
        .args(["--no-sandbox", "--virtual-time-budget=3000", "--dump-dom"])
        .arg(format!("--window-size={width},1000"))
        .arg(format!("--user-data-dir={}", folder.join("browser").display()))
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&ran.stdout).into_owned();
    let told = dom.split("data-measured=\"").nth(1).and_then(|rest| rest.split('"').next());
    let told = told.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&ran.stderr)));
    told.split(' ').map(|number| number.parse().unwrap()).collect()
}

#[test]
fn a_page_is_as_wide_as_the_paper_and_a_small_screen_shows_its_numbers() {
    // A4 less its margins, in pixels of CSS.
    const PAPER: u32 = 182 * 960 / 254;
    let has = Command::new("chromium-headless-shell").arg("--version").output();
    if has.is_err() {
        assert!(std::env::var("SCHENGATE_CI").is_err(), "CI has no chromium-headless-shell");
        eprintln!("SKIPPED: no chromium-headless-shell");
        return;
    }
    let (dir, directory) = log(2000);
    for language in ["en", "fr"] {
        let (_, page, _) = september(&directory, &["--lang", language]);
        // A browser shrinks what is wider than the paper, all of it.
        let print = page
            .replace("@media print{", "@media all{")
            .replace("@media (max-width:720px){", "@media (max-width:1px){");
        assert_ne!(print, page);
        let told = measured(&print, dir.path(), PAPER);
        assert_eq!((told[0], told[1]), (i64::from(PAPER), 0), "{language}: {told:?}");
        // Between a telephone and a wide screen, the short tables stand side by side.
        let told = measured(&page, dir.path(), 1000);
        assert_eq!((told[0], told[4]), (1000, 0), "{language}: {told:?}");
        let told = measured(&page, dir.path(), 390);
        assert!(told[0] <= 390 && told[2] <= 390, "{language}: {told:?}");
        assert_eq!((told[1], told[3], told[4]), (0, 0, 0), "{language}: {told:?}");
    }
}

#[test]
fn a_signed_report_is_told_from_one_that_was_changed() {
    let (dir, directory) = log(100);
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (key, report) = (path("reports.key"), path("september.html"));
    assert_eq!(schengate(&["audit", "keygen", &key, "--name", "reports"]).0, 0);
    let public = dir.path().join("reports.pub");
    let public = public.to_str().unwrap();
    let (code, out, said) = september(&directory, &["--output", &report, "--sign", &key]);
    assert!(code == 0 && out.is_empty(), "{said}");
    let verify = || schengate(&["audit", "verify-report", &report, "--key", public]);
    let (code, says, said) = verify();
    assert!(
        code == 0 && says.contains("span 2026-09-01T00:00:00Z 2026-10-01T00:00:00Z"),
        "{says}{said}"
    );
    // A note over a report is never taken for a checkpoint of the record.
    let own = path("own.html");
    let signing = directory.join("signing.key");
    assert_eq!(
        september(&directory, &["--output", &own, "--sign", signing.to_str().unwrap()]).0,
        0
    );
    let given = ["--output", &own, "--sign", signing.to_str().unwrap()];
    let (_, _, said) = september(&directory, &given);
    assert!(said.contains("the key of the record itself; take another"), "{said}");
    let (_, _, said) = september(&directory, &["--output", &report, "--sign", &key]);
    assert!(!said.contains("take another"), "{said}");
    let directory_name = directory.to_str().unwrap();
    let kept = format!("{own}.note");
    let log_key = directory.join("signing.pub");
    let given =
        ["audit", "verify", directory_name, "--key", log_key.to_str().unwrap(), "--head", &kept];
    assert_eq!(schengate(&given).0, 2);
    let text = fs::read_to_string(&report).unwrap();
    fs::write(&report, text.replacen("Germany", "Gernany", 1)).unwrap();
    assert_eq!(verify().0, 1);
    fs::write(&report, text).unwrap();
    assert_eq!(verify().0, 0);
    fs::remove_file(format!("{report}.note")).unwrap();
    assert_eq!(verify().0, 2);
    assert_eq!(september(&directory, &["--output", &path("none/x.html")]).0, 2);
}

/// A register as 50 million connections of 30 days leave it: 1,000 names of each hour, under 60 labels.
/// `SCHENGATE_REGISTER_ROWS=720000 cargo test --release --test it report::a_large -- --nocapture` says
/// what a report of it takes.
#[test]
fn a_large_register_gives_a_report_of_bounded_size() {
    let rows = std::env::var("SCHENGATE_REGISTER_ROWS");
    let rows = rows.map_or(20_000, |rows| rows.parse::<i64>().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("audit");
    fs::create_dir(&directory).unwrap();
    fs::write(dir.path().join("policy.toml"), POLICY).unwrap();
    drop(Register::open(&directory, 1000).unwrap());
    let mut database = Connection::open(register_path(&directory)).unwrap();
    let part = database.transaction().unwrap();
    for label in 0..2000_i64 {
        let place = ["DE", "FR", "US", "DE FR NL", "SG", "MT", "IE", "JP"]
            [usize::try_from(label % 8).unwrap()];
        let (verdict, reason) = [("allow", "permitted"), ("allow", "rule"), ("block", "outside")]
            [usize::try_from(label % 3).unwrap()];
        part.prepare("INSERT INTO label VALUES (?, ?, ?, ?, 'US', '', 'r', ?, ?, 'tproxy', 'tcp')")
            .unwrap()
            .execute(rusqlite::params![
                label,
                format!("group {}", label % 5),
                place,
                format!("operator {label}"),
                verdict,
                reason
            ])
            .unwrap();
    }
    for row in 0..rows {
        let hour = SEPTEMBER.0 + row * 720 / rows * 3600;
        // The most used labels are few.
        let label = if row % 10 == 0 { row / 10 % 2000 } else { row % 60 };
        part.prepare("INSERT INTO hourly VALUES (?, ?, ?, 70, 70, ?, 900, ?, ?, 0, 0)")
            .unwrap()
            .execute(rusqlite::params![
                hour,
                label,
                format!("name-{row}.example"),
                row % 10_000,
                hour * 1000,
                hour * 1000 + 5
            ])
            .unwrap();
    }
    part.commit().unwrap();
    let begun = Instant::now();
    let (code, page, said) = september(&directory, &[]);
    let took = begun.elapsed();
    assert_eq!(code, 0, "{said}");
    assert!(page.len() < 1_500_000, "{} bytes", page.len());
    let connections = rows * 70;
    assert!(page.contains("id=\"rest\""), "more rows than are shown");
    let profile = if cfg!(debug_assertions) { "without optimisation" } else { "optimised" };
    eprintln!(
        "{profile}: {rows} rows of {connections} connections in {took:.2?}, {} bytes",
        page.len()
    );
}
