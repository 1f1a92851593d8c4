//! Whether data can be trusted, from the outside: what the commands say of tables, and which tables
//! they refuse.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jiff::Timestamp;
use schengate::control::config;

use crate::gateway::{Gateway, PATIENCE};
use crate::support;

fn schengate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_schengate")).args(arguments).output().unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(output)))
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> String {
    let path: PathBuf = folder.join(name);
    fs::write(&path, content).unwrap();
    path.into_os_string().into_string().unwrap()
}

const OLD: &str = "192.0.2.0,192.0.2.255,FR\n198.51.100.0,198.51.100.255,DE\n2001:db8::,2001:db8:0:ffff:ffff:ffff:ffff:ffff,FR\n";
const NEW: &str = "192.0.2.0,192.0.2.127,FR\n192.0.2.128,192.0.2.255,US\n203.0.113.0,203.0.113.255,DE\n2001:db8::,2001:db8:0:ffff:ffff:ffff:ffff:ffff,CH\n";

#[test]
fn verify_says_what_a_table_covers_and_refuses_a_faulty_one_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let good = write(dir.path(), "good.csv", OLD);
    let asn = write(dir.path(), "asn.csv", "192.0.2.0,192.0.2.255,64500,\"Example, Inc\"\n");
    let aws = write(
        dir.path(),
        "aws.json",
        r#"{"createDate": "2026-11-04-12-00-00", "prefixes":
        [{"ip_prefix": "192.0.2.0/24", "region": "eu-west-3", "service": "EC2",
          "network_border_group": "eu-west-3"}]}"#,
    );
    let sound = schengate(&["data", "verify", &good, &asn, &aws, "--json"]);
    assert_eq!(status(&sound), 0, "{}", stderr(&sound));
    let told = json(&sound);
    let kinds: Vec<_> = (0..3).map(|at| told[at]["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["country", "asn", "providers"]);
    assert_eq!(told[0]["coverage"]["total"], serde_json::json!({"ipv4": 512, "ipv6_48s": 1}));
    let first = serde_json::json!({"label": "FR", "ipv4": 256, "ipv6_48s": 1});
    assert_eq!(told[0]["coverage"]["top"][0], first);
    assert_eq!(told[1]["coverage"]["top"][0]["label"], "AS64500");
    assert_eq!(told[2]["coverage"]["top"][0]["label"], "FR");
    assert_eq!(told[2]["date"], "2026-11-04T12:00:00Z");
    assert_eq!(told[0]["digest"].as_str().unwrap().len(), 64);
    let bad = write(dir.path(), "bad.csv", &OLD[..OLD.len() - 30]);
    let refused = schengate(&["data", "verify", &good, &bad]);
    assert_eq!(status(&refused), 1);
    let text = stdout(&refused);
    assert!(text.contains("good.csv: sound, 3 rows"), "{text}");
    assert!(text.contains("bad.csv") && text.contains("REFUSED"), "{text}");
}

#[test]
fn verify_without_files_reads_what_the_policy_names() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "c.csv", OLD);
    let policy =
        "schema = 1\n[policy]\npermit = ['eea']\n[data]\ncountry = ['c.csv', 'embedded']\n";
    let policy = write(dir.path(), "policy.toml", policy);
    let answer = schengate(&["data", "verify", "--json", "--config", &policy]);
    assert_eq!(status(&answer), 0, "{}", stderr(&answer));
    let names: Vec<_> =
        json(&answer).as_array().unwrap().iter().map(|t| t["name"].to_string()).collect();
    let embedded = ["country", "db-ip", "asn", "cloud"].map(|name| format!("\"embedded:{name}\""));
    assert_eq!(names, [&["\"c.csv\"".to_owned()], &embedded[..]].concat());
    fs::remove_file(dir.path().join("c.csv")).unwrap();
    assert_eq!(status(&schengate(&["data", "verify", "--config", &policy])), 1);
    assert_eq!(status(&schengate(&["data", "verify", "--config", "/nowhere.toml"])), 2);
}

#[test]
fn diff_counts_what_was_gained_lost_and_moved() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (write(dir.path(), "o.csv", OLD), write(dir.path(), "n.csv", NEW));
    let differs = schengate(&["data", "diff", &old, &new, "--json"]);
    assert_eq!(status(&differs), 1, "{}", stderr(&differs));
    let told = json(&differs);
    let change = |label: &str| {
        let changes = told["changes"].as_array().unwrap();
        let found = changes.iter().find(|change| change["label"] == label).unwrap();
        let count = |key: &str| found[key]["ipv4"].as_u64().unwrap();
        (count("before"), count("after"), count("gained"), count("lost"))
    };
    assert_eq!(change("FR"), (256, 128, 0, 128));
    assert_eq!(change("US"), (0, 128, 128, 0));
    assert_eq!(change("DE"), (256, 256, 256, 256));
    let moves = told["moves"].as_array().unwrap();
    assert_eq!(moves.len(), 4);
    let moved = |from, to, ipv4, ipv6_48s| serde_json::json!({"from": from, "to": to, "ipv4": ipv4, "ipv6_48s": ipv6_48s});
    assert!(moves.contains(&moved(Some("FR"), Some("US"), 128, 0)), "{moves:?}");
    assert!(moves.contains(&moved(Some("FR"), Some("CH"), 0, 1)), "{moves:?}");
    assert!(moves.contains(&moved(Some("DE"), None, 256, 0)), "{moves:?}");
    assert!(stdout(&schengate(&["data", "diff", &old, &new])).contains("FR          -> US"));
    assert_eq!(status(&schengate(&["data", "diff", &old, &old])), 0);
    assert_eq!(status(&schengate(&["data", "diff", "embedded", "embedded"])), 0);
    assert_eq!(status(&schengate(&["data", "diff", "embedded", &old])), 1);
    let asn = write(dir.path(), "asn.csv", "192.0.2.0,192.0.2.255,64500,x\n");
    let kinds = schengate(&["data", "diff", &old, &asn]);
    assert_eq!(status(&kinds), 2, "{}", stdout(&kinds));
}

/// A policy over one country table, whose state lies beside it; every port is a free one.
fn policy(folder: &Path, data: &str) -> String {
    let text = format!(
        "schema = 1\n[policy]\nmode = 'observe'\npermit = ['FR']\n[admin]\naddress = '127.0.0.1:0'\n\
         [[listen]]\nmode = 'proxy'\naddress = '127.0.0.1:0'\n[data]\ndirectory = '.'\n\
         country = ['t.csv']\n{data}"
    );
    write(folder, "policy.toml", text)
}

/// Writes the table: this many addresses of France, last written on this day.
fn table(folder: &Path, addresses: u8, day: &str) {
    let new = folder.join("t.new");
    fs::write(&new, format!("192.0.2.0,192.0.2.{},FR\n", addresses - 1)).unwrap();
    let at: Timestamp = format!("{day}T00:00:00Z").parse().unwrap();
    fs::File::options().append(true).open(&new).unwrap().set_modified(at.into()).unwrap();
    fs::rename(new, folder.join("t.csv")).unwrap();
}

#[test]
fn a_table_may_lose_a_fifth_unless_the_file_says_another_share() {
    let head = "schema = 1\n[policy]\npermit = ['eea']\n[data]\n";
    let read = |tail: &str| config::parse(&format!("{head}{tail}"), None);
    assert_eq!(read("max_age = '45d'").unwrap().config.data.max_loss, 20);
    assert_eq!(read("max_loss = '5%'").unwrap().config.data.max_loss, 5);
    for share in ["'101%'", "'5'", "0.2"] {
        let faults = read(&format!("max_loss = {share}")).unwrap_err().to_string();
        assert!(faults.starts_with("<policy>:5:12: data.max_loss: "), "{faults}");
        assert!(faults.contains("help: write whole percent"), "{faults}");
    }
}

#[test]
fn the_registered_country_counts_where_it_is_asked_for_and_explain_says_so() {
    let Some(shared) = support::shared("the registered country") else { return };
    let table = shared.join("data/maxmind-test/test-data/GeoIP2-Country-Test.mmdb");
    let dir = tempfile::tempdir().unwrap();
    let asked = |field: &str| {
        let text = format!(
            "schema = 1\n[policy]\npermit = ['eea']\n[data]\ncountry = ['{}']\n{field}",
            table.display()
        );
        let policy = write(dir.path(), "policy.toml", text);
        let to = ["--to", "2.125.160.217", "--json"];
        let answer = schengate(&[&["explain", "--config", &policy], &to[..]].concat());
        let told = json(&answer);
        (told["location"]["codes"].to_string(), told["location"]["source"].to_string())
    };
    let name = |suffix: &str| format!("\"GeoIP2-Country-Test.mmdb{suffix}\"");
    assert_eq!(asked(""), ("[\"GB\"]".to_owned(), name("")));
    assert_eq!(asked("country_field = 'country'"), ("[\"GB\"]".to_owned(), name("")));
    let registered = asked("country_field = 'registered_country'");
    assert_eq!(registered, ("[\"FR\"]".to_owned(), name(" (registered_country)")));
    let text = "schema = 1\n[policy]\npermit = ['eea']\n[data]\ncountry_field = 'represented'\n";
    let faults = config::parse(text, None).unwrap_err().to_string();
    assert!(faults.starts_with("<policy>:5:17: data.country_field: "), "{faults}");
}

#[test]
fn a_reload_with_a_worse_table_is_refused_and_the_last_good_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    table(dir.path(), 100, "2026-06-01");
    let policy = policy(dir.path(), "max_loss = '10%'\n");
    let mut gateway = Gateway::start(&["--config", &policy]);
    let failed = "schengate_policy_reload_total{result=\"failed\"}";
    for (at, (addresses, day, why)) in [
        (100, "2026-05-01", None),
        (99, "2026-05-01", Some("older than the one in use")),
        (89, "2026-07-01", Some("FR 11% (100 to 89 IPv4 addresses)")),
    ]
    .into_iter()
    .enumerate()
    {
        table(dir.path(), addresses, day);
        gateway.signal("HUP");
        let Some(why) = why else {
            // The same bytes with an older date are the same table.
            gateway.until("policy reloaded");
            gateway.until("the new tables are in their own form");
            continue;
        };
        let line = gateway.until("the policy does not load");
        assert!(line.contains(why) && line.contains("t.csv"), "{line}");
        assert!(line.contains("ERROR"), "{line}");
        assert_eq!(gateway.metric(failed), at.to_string());
    }
    for broken in ["", "192.0.2.0,192.0.2.99\n", "192.0.2.0,192.0.2.99,??\n"] {
        write(dir.path(), "t.csv", broken);
        gateway.signal("HUP");
        gateway.until("the policy does not load");
    }
    assert_eq!(gateway.metric(failed), "5");
    assert_eq!(gateway.metric("schengate_policy_reload_total{result=\"done\"}"), "1");
    table(dir.path(), 90, "2026-07-01");
    gateway.signal("HUP");
    gateway.until("policy reloaded");
}

#[test]
fn the_next_start_remembers_and_check_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    table(dir.path(), 100, "2026-06-01");
    let policy = policy(dir.path(), "");
    let check = |more: &[&str]| schengate(&[&["check", "--config", &policy], more].concat());
    assert_eq!(status(&check(&[])), 0);
    assert!(!dir.path().join("state.json").exists(), "only what is in use is remembered");
    let mut gateway = Gateway::start(&["--config", &policy]);
    // The state is written before the first reload is answered.
    gateway.signal("HUP");
    gateway.until("policy reloaded");
    drop(gateway);
    table(dir.path(), 99, "2026-05-01");
    let refused = check(&[]);
    assert_eq!(status(&refused), 1);
    assert!(stderr(&refused).contains("older than the one in use"), "{}", stderr(&refused));
    assert_eq!(status(&check(&["--allow-older"])), 0);
    let run = schengate(&["run", "--config", &policy]);
    assert_eq!(status(&run), 2, "it does not start with what it would not reload");
    let mut gateway = Gateway::start(&["--config", &policy, "--allow-older"]);
    gateway.signal("HUP");
    gateway.until("policy reloaded");
    drop(gateway);
    assert_eq!(status(&check(&[])), 0, "what was allowed is what is in use");
    write(dir.path(), "state.json", "{\"tables\": [{");
    let damaged = check(&[]);
    assert_eq!(status(&damaged), 1);
    assert!(stderr(&damaged).contains("state.json: row 1"), "{}", stderr(&damaged));
}

#[test]
fn zones_show_their_members_with_dates_and_what_changed_between_two() {
    let told = json(&schengate(&["zones", "list", "--json", "--at", "2026-11-24"]));
    let zone = |name: &str| {
        let zones = told.as_array().unwrap();
        zones.iter().find(|zone| zone["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    assert_eq!(zone("eea")["members"], 37);
    assert_eq!(zone("gdpr-adequacy")["origin"], "built-in");
    assert_eq!(zone("gdpr-adequacy")["next_change"], "2031-12-28T00:00:00Z");
    let shown =
        json(&schengate(&["zones", "show", "gdpr-adequacy", "--json", "--at", "2026-11-24"]));
    let members = shown["members"].as_array().unwrap();
    let britain = members.iter().find(|member| member["country"] == "GB").unwrap();
    assert_eq!(britain["since"], "2021-06-28T00:00:00Z");
    assert_eq!(britain["until"], "2031-12-28T00:00:00Z");
    assert_eq!(britain["holds"], true);
    assert!(britain["sources"][0].as_str().unwrap().contains("2021/1772"), "{britain}");
    let changed = ["zones", "diff", "gdpr-adequacy", "--from", "2026-01-01", "--to", "2032-01-01"];
    let differs = schengate(&[&changed[..], &["--json"]].concat());
    assert_eq!(status(&differs), 1);
    let told = json(&differs);
    let at = |list: &str, code: &str| {
        let changes = told[list].as_array().unwrap();
        changes.iter().find(|c| c["country"] == code).map(|c| c["at"].as_str().unwrap().to_owned())
    };
    assert_eq!(at("joined", "BR").as_deref(), Some("2026-01-26T00:00:00Z"));
    assert_eq!(at("left", "GB").as_deref(), Some("2031-12-28T00:00:00Z"));
    assert_eq!(at("joined", "GB"), None);
    let text = stdout(&schengate(&changed));
    assert!(text.contains("  + BR  2026-01-26T00:00:00Z\n"), "{text}");
    let brexit = ["zones", "diff", "eu", "--from", "2019-06-01", "--to", "2020-06-01"];
    let text = stdout(&schengate(&brexit));
    assert!(text.contains("  - GB  2020-02-01T00:00:00Z\n  - GI"), "{text}");
    let text = stdout(&schengate(&["zones", "show", "coe", "--at", "2019-06-01"]));
    let russia = text.lines().find(|line| line.starts_with("  RU")).unwrap();
    assert!(
        russia.ends_with("until 2022-03-17T00:00:00Z  by K: Resolution CM/Res(2022)2, 16.3.2022")
    );
    let text = stdout(&schengate(&["zones", "show", "hds", "--at", "2019-06-01"]));
    assert!(
        text.starts_with("hds (built-in), 39 members at 2019-06-01T00:00:00Z\nstands for eea\n")
    );
    let same = ["zones", "diff", "eea", "--from", "2026-01-01", "--to", "2026-01-02"];
    assert_eq!(status(&schengate(&same)), 0);
    let backwards = ["zones", "diff", "eea", "--from", "2026-01-02", "--to", "2026-01-01"];
    assert_eq!(status(&schengate(&backwards)), 2);
    // It cannot be answered, whatever the date.
    assert_eq!(status(&schengate(&["zones", "show", "atlantis"])), 2);
}

#[test]
fn a_zone_of_the_policy_has_the_dates_of_the_zones_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let text = "schema = 1\n[policy]\npermit = ['home']\n[zones]\nhome = ['gdpr-adequacy', 'fr-realm', '-FR']\n";
    let policy = write(dir.path(), "policy.toml", text);
    let at = ["--at", "2026-01-01", "--json", "--config", &policy];
    let shown = json(&schengate(&[&["zones", "show", "home"], &at[..]].concat()));
    assert_eq!(shown["origin"], "policy");
    assert_eq!(shown["written"], serde_json::json!(["gdpr-adequacy", "fr-realm", "-FR"]));
    let codes = shown["codes"].as_array().unwrap();
    assert!(!codes.contains(&"FR".into()) && !codes.contains(&"BR".into()), "{codes:?}");
    let members = shown["members"].as_array().unwrap();
    let brazil = members.iter().find(|member| member["country"] == "BR").unwrap();
    assert_eq!(brazil["since"], "2026-01-26T00:00:00Z");
    assert_eq!(brazil["until"], serde_json::Value::Null);
    assert_eq!(brazil["holds"], false);
    assert!(brazil["sources"][0].as_str().unwrap().contains("2026/179"), "{brazil}");
}

/// Makes a key and gives its line for the policy.
fn keygen(folder: &Path, name: &str) -> (String, String) {
    let file = folder.join(name).into_os_string().into_string().unwrap();
    let made = schengate(&["data", "keygen", &file]);
    assert_eq!(status(&made), 0, "{}", stderr(&made));
    assert_eq!(status(&schengate(&["data", "keygen", &file])), 2, "a key is never overwritten");
    (file, stdout(&made))
}

fn pack_policy(folder: &Path, more: &str) -> String {
    let text = format!(
        "schema = 1\n[policy]\nmode = 'observe'\npermit = ['FR']\n[admin]\naddress = '127.0.0.1:0'\n\
         [[listen]]\nmode = 'proxy'\naddress = '127.0.0.1:0'\n[data]\ndirectory = '.'\n\
         pack = 'site.sgp'\n{more}"
    );
    write(folder, "policy.toml", text)
}

#[test]
fn a_pack_carries_any_tables_and_only_the_right_signature_opens_it() {
    let dir = tempfile::tempdir().unwrap();
    let (key, line) = keygen(dir.path(), "key.pem");
    let (stranger, strange_line) = keygen(dir.path(), "stranger.pem");
    let country = write(dir.path(), "c.csv", "11.0.0.0,11.0.0.255,FR\n");
    let asn = write(dir.path(), "asn.csv", "11.0.0.0,11.0.0.255,64500,x\n");
    let pack = dir.path().join("site.sgp").into_os_string().into_string().unwrap();
    let build = |more: &[&str]| {
        let asn = format!("asn={asn}");
        let arguments = ["data", "build", "--pack", &pack, &country, &asn];
        let built = schengate(&[&arguments[..], more].concat());
        assert_eq!(status(&built), 0, "{}", stderr(&built));
    };
    let check = |more: &str| schengate(&["check", "--config", &pack_policy(dir.path(), more)]);
    build(&["--sign", &key]);
    let good = check(&line);
    assert_eq!(status(&good), 0, "{}", stderr(&good));
    assert!(!stderr(&good).contains("nobody checks"), "{}", stderr(&good));
    let policy = pack_policy(dir.path(), &line);
    let told = json(&schengate(&["explain", "--config", &policy, "--to", "11.0.0.9", "--json"]));
    assert_eq!(told["location"]["source"], "site.sgp:c.csv");
    assert_eq!(told["operator"]["asn"], 64500);
    // What the pack does not hold is what the program holds; what it holds is not doubted by it.
    let verified = json(&schengate(&["data", "verify", "--config", &policy, "--json"]));
    let names: Vec<_> =
        verified.as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["site.sgp", "site.sgp:c.csv", "site.sgp:asn.csv", "embedded:cloud"]);
    let wrong = check(&strange_line);
    assert_eq!(status(&wrong), 1);
    assert!(stderr(&wrong).contains("not signed by"), "{}", stderr(&wrong));
    let unchecked = check("");
    assert_eq!(status(&unchecked), 0);
    assert!(stderr(&unchecked).contains("warning: data.pack: nobody checks"));
    build(&[]);
    assert!(stderr(&check(&line)).contains("site.sgp: is not signed"));
    assert_eq!(status(&check("")), 0);
    build(&["--sign", &stranger]);
    assert_eq!(status(&check(&line)), 1);
    for (more, fault) in [
        ("pack_key = 'AAAA'\n", "data.pack_key: not an Ed25519 key"),
        ("pack_key = 3\n", "data.pack_key: an integer"),
        ("pack = ''\n", "duplicate key"),
    ] {
        assert!(stderr(&check(more)).contains(fault), "{}", stderr(&check(more)));
    }
    let text = format!("schema = 1\n[policy]\npermit = ['eea']\n[data]\n{line}");
    let alone = config::parse(&text, None).unwrap_err().to_string();
    assert!(alone.contains("a key without the pack"), "{alone}");
}

#[test]
fn a_pack_that_is_older_than_the_one_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (key, line) = keygen(dir.path(), "key.pem");
    let country = write(dir.path(), "c.csv", "11.0.0.0,11.0.0.255,FR\n");
    let pack = dir.path().join("site.sgp").into_os_string().into_string().unwrap();
    let build = |date: &str| {
        let arguments =
            ["data", "build", "--pack", &pack, "--sign", &key, "--date", date, &country];
        let built = schengate(&arguments);
        assert_eq!(status(&built), 0, "{}", stderr(&built));
        fs::read(&pack).unwrap()
    };
    assert_eq!(build("2026-06-01"), build("2026-06-01"), "the same sources give the same bytes");
    let mut gateway = Gateway::start(&["--config", &pack_policy(dir.path(), &line)]);
    build("2026-05-31");
    gateway.signal("HUP");
    let line = gateway.until("the policy does not load");
    assert!(line.contains("site.sgp") && line.contains("older than the one in use"), "{line}");
    let mut cut = build("2026-06-02");
    cut.pop();
    fs::write(&pack, cut).unwrap();
    gateway.signal("HUP");
    assert!(gateway.until("the policy does not load").contains("not signed by"));
    build("2026-06-02");
    gateway.signal("HUP");
    gateway.until("policy reloaded");
}

#[test]
fn a_changed_file_is_taken_up_without_a_signal_and_a_broken_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    table(dir.path(), 100, "2026-06-01");
    let file = policy(dir.path(), "");
    let mut gateway = Gateway::start(&["--config", &file]);
    table(dir.path(), 99, "2026-06-02");
    gateway.until("a file behind the policy changed");
    gateway.until("policy reloaded");
    policy(dir.path(), "max_age = '45d'\n");
    gateway.until("policy reloaded");
    policy(dir.path(), "max_age = 45\n");
    assert!(gateway.until("the policy does not load").contains("policy.toml:"));
    policy(dir.path(), "max_age = '45d'\n");
    gateway.until("policy reloaded");
    assert_eq!(gateway.metric("schengate_policy_reload_total{result=\"done\"}"), "3");
    assert_eq!(gateway.metric("schengate_policy_reload_total{result=\"failed\"}"), "1");
}

/// 4,096 rows, 64 of them to a country.
fn long_table() -> String {
    let codes: Vec<_> = schengate::policy::Country::all().take(64).collect();
    let row = |at: usize| {
        let (high, low) = (at / 256, at % 256);
        format!("11.{high}.{low}.0,11.{high}.{low}.255,{}\n", codes[at / 64])
    };
    (0..4_096).map(row).collect()
}

#[test]
fn a_table_that_was_cut_at_any_kilobyte_is_a_fault_with_its_row_or_has_the_rows_before() {
    use schengate::control::data::load_country;
    let dir = tempfile::tempdir().unwrap();
    let text = long_table();
    assert!(text.len() > 100_000);
    let path = PathBuf::from(write(dir.path(), "whole.csv", &text));
    assert_eq!(load_country(&path).unwrap().info.rows, 4_096);
    let (mut refused, mut shorter) = (0, 0);
    for cut in (0..text.len()).step_by(1_024) {
        let whole_rows = text[..cut].matches('\n').count() as u64;
        let path = PathBuf::from(write(dir.path(), "cut.csv", &text[..cut]));
        match load_country(&path) {
            Err(fault) if cut == 0 => assert!(fault.said().contains("empty"), "{fault}"),
            Err(fault) => {
                assert!(fault.source.ends_with("cut.csv"), "{fault}");
                assert_eq!(fault.row, Some(whole_rows + 1), "at {cut}: {fault}");
                refused += 1;
            }
            // The cut fell behind a row, or a last address lost digits and is still one.
            Ok(table) => {
                assert!((whole_rows..=whole_rows + 1).contains(&table.info.rows), "at {cut}");
                shorter += 1;
            }
        }
    }
    assert!(refused > 50, "{refused} {shorter}");
}

#[test]
fn a_bit_flip_in_a_text_table_is_a_fault_with_its_row_or_a_sound_table() {
    use schengate::control::data::load_country;
    let dir = tempfile::tempdir().unwrap();
    let text = "192.0.2.0,192.0.2.255,FR\r\n\"198.51.100.0\",198.51.100.255,\"DE\"\r\n2001:db8::,2001:db8::ffff,NL\r\n";
    let mut refused = 0;
    for bit in 0..text.len() * 8 {
        let mut bytes = text.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let path = PathBuf::from(write(dir.path(), "flip.csv", bytes));
        match load_country(&path) {
            Err(fault) => {
                assert!(fault.source.ends_with("flip.csv"), "bit {bit}: {fault}");
                refused += 1;
            }
            Ok(table) => {
                let (v4, v6) = (&table.ranges.v4, &table.ranges.v6);
                assert!(v4.iter().all(|r| r.0 <= r.1) && v4.is_sorted_by(|a, b| a.1 < b.0));
                assert!(v6.iter().all(|r| r.0 <= r.1) && v6.is_sorted_by(|a, b| a.1 < b.0));
            }
        }
    }
    assert!(refused > text.len() * 4, "{refused} of {}", text.len() * 8);
}

#[test]
fn every_cut_of_a_providers_file_is_a_fault() {
    use schengate::control::data::load_provider;
    let dir = tempfile::tempdir().unwrap();
    let prefix = |at: usize| {
        format!(
            "{{\"ip_prefix\": \"11.{}.{}.0/24\", \"region\": \"eu-west-3\", \"service\": \"EC2\", \
             \"network_border_group\": \"eu-west-3\"}}",
            at / 256,
            at % 256
        )
    };
    let prefixes: Vec<_> = (0..600).map(prefix).collect();
    let text = format!(
        "{{\"createDate\": \"2026-11-04-12-00-00\", \"prefixes\": [{}]}}",
        prefixes.join(",")
    );
    let whole = PathBuf::from(write(dir.path(), "aws.json", &text));
    assert_eq!(load_provider(&whole).unwrap().rows.len(), 600);
    for cut in (1_024..text.len()).step_by(1_024) {
        let path = PathBuf::from(write(dir.path(), "cut.json", &text[..cut]));
        let fault = load_provider(&path).unwrap_err();
        assert!(fault.source.ends_with("cut.json") && fault.row.is_some(), "at {cut}: {fault}");
    }
}

#[test]
fn what_is_no_table_at_all_is_refused_by_name_and_unread() {
    let dir = tempfile::tempdir().unwrap();
    let zeros = dir.path().join("zeros.mmdb");
    fs::File::create(&zeros).unwrap().set_len(10 << 30).unwrap();
    let pipe = dir.path().join("pipe.csv");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let absent = dir.path().join("absent.csv");
    for (path, why) in [
        (zeros.as_path(), "larger than"),
        (pipe.as_path(), "not a regular file"),
        (dir.path(), "not a regular file"),
        (absent.as_path(), "cannot be opened"),
        (Path::new("/dev/zero"), "not a regular file"),
    ] {
        let text = path.to_str().unwrap();
        for kind in [&[][..], &["--kind", "country"], &["--kind", "asn"], &["--kind", "providers"]]
        {
            let refused = schengate(&[&["data", "verify", text], kind].concat());
            assert_eq!(status(&refused), 1, "{text}");
            let told = stdout(&refused);
            assert!(told.contains(text) && told.contains(why), "{told}");
        }
        let policy = format!("schema = 1\n[policy]\npermit = ['eea']\n[data]\npack = '{text}'\n");
        let policy = write(dir.path(), "policy.toml", policy);
        let refused = schengate(&["check", "--config", &policy]);
        assert_eq!(status(&refused), 1, "{text}");
        assert!(stderr(&refused).contains(why), "{}", stderr(&refused));
    }
}

/// Every metric that an alert asks for is one that a gateway at work shows.
#[test]
fn every_alert_asks_for_what_the_metrics_page_shows() {
    let dir = tempfile::tempdir().unwrap();
    table(dir.path(), 100, "2026-06-01");
    let text = policy(dir.path(), "max_age = '45d'\n");
    let enforced = fs::read_to_string(&text).unwrap().replace("'observe'", "'enforce'");
    let text = write(dir.path(), "policy.toml", enforced);
    let gateway = Gateway::start(&["--config", &text]);
    // A refusal, so that there are verdicts to show.
    let mut client = TcpStream::connect(&gateway.proxy).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = b"GET http://11.9.9.9/ HTTP/1.1\r\nHost: 11.9.9.9\r\nConnection: close\r\n\r\n";
    client.write_all(head).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 451 "), "{answer}");
    let page = gateway.page("/metrics");
    let shown: Vec<_> = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let alerts =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/prometheus/alerts.yml"))
            .unwrap();
    let word = |c: char| !(c.is_ascii_lowercase() || c == '_');
    let asked: Vec<_> = alerts.split(word).filter(|word| word.starts_with("schengate_")).collect();
    assert!(asked.len() > 10, "{asked:?}");
    // Shown where something is captured, where there is an `[audit]`, and where a waiver holds; asked for
    // there by tests/net/capture.rs, tests/net/audit_gateway.rs and tests/net/dashboard.rs.
    let elsewhere = [
        "schengate_capture_intact",
        "schengate_audit_writing",
        "schengate_waiver_expires_timestamp_seconds",
    ];
    for name in asked.into_iter().filter(|name| !elsewhere.contains(name)) {
        assert!(shown.contains(&name), "no {name} in\n{page}");
    }
    assert_eq!(gateway.metric("schengate_data_stale{dataset=\"t.csv\"}"), "1");
    assert_eq!(gateway.metric("schengate_data_refused_total"), "0");
}
