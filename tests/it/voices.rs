//! Of several lists that hold rows of one provider, the first speaks for it alone, and an address
//! that answers from many places has no country (docs/policy.md §3).

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

/// Every step of an explanation at an instant.
fn steps(folder: &Path, at: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_schengate"))
        .args(["explain", "--to", "184.76.0.1", "--at", at, "--config"])
        .arg(folder.join("policy.toml"))
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An AWS list with one prefix, which the embedded table has too.
const AWS: &str = r#"{"syncToken": "1", "createDate": "2026-09-16-12-00-00", "ipv6_prefixes": [],
    "prefixes": [{"ip_prefix": "184.76.0.0/14", "region": "eu-central-1", "service": "AMAZON",
                  "network_border_group": "eu-central-1"}]}"#;

fn folder(providers: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("aws.json"), AWS).unwrap();
    fs::write(folder.path().join("a.csv"), "192.0.2.0/24,NL,,,\n").unwrap();
    fs::write(folder.path().join("b.csv"), "198.51.100.0/24,BE,,,\n9.9.9.0/24,BE,,,\n").unwrap();
    fs::write(folder.path().join("c.csv"), "9.9.9.0/24,NL,,,\n").unwrap();
    let text =
        format!("schema = 1\n[policy]\npermit = [\"FR\"]\n[data]\nproviders = {providers}\n");
    fs::write(folder.path().join("policy.toml"), text).unwrap();
    folder
}

fn explain(folder: &Path, to: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_schengate"))
        .args(["explain", "--json", "--to", to, "--config"])
        .arg(folder.join("policy.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"))
}

fn location(folder: &Path, to: &str) -> (Vec<String>, String) {
    let answer = explain(folder, to);
    let codes = answer["location"]["codes"].as_array().unwrap().iter();
    let codes = codes.map(|code| code.as_str().unwrap().to_owned()).collect();
    (codes, answer["location"]["source"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_newer_list_replaces_the_embedded_rows_of_its_provider() {
    let first = folder(r#"["aws.json", "embedded"]"#);
    let (codes, source) = location(first.path(), "184.76.0.1");
    assert_eq!((codes, source.as_str()), (vec!["DE".to_owned()], "aws-ranges"));
    // The embedded row says the same by now, and is named where it is alone.
    let alone = folder(r#"["embedded"]"#);
    assert_eq!(location(alone.path(), "184.76.0.1").1, "embedded:cloud");
    // AddressKind behind it, the list is not heard.
    let behind = folder(r#"["embedded", "aws.json"]"#);
    assert_eq!(location(behind.path(), "184.76.0.1"), location(alone.path(), "184.76.0.1"));
}

#[test]
fn what_the_newer_list_leaves_out_is_no_longer_its_providers() {
    // 3.120.0.0/14 is eu-central-1 in the embedded table.
    let alone = folder(r#"["embedded"]"#);
    let (codes, source) = location(alone.path(), "3.120.0.1");
    assert_eq!(codes, ["DE"]);
    let first = folder(r#"["aws.json", "embedded"]"#);
    assert_ne!(location(first.path(), "3.120.0.1").1, source, "by a country table, if at all");
    // Other providers of the embedded table go on speaking.
    let (_, azure) = location(first.path(), "20.43.40.1");
    assert_eq!(azure, location(alone.path(), "20.43.40.1").1);
}

#[test]
fn geofeeds_without_a_provider_do_not_silence_each_other() {
    let both = folder(r#"["a.csv", "b.csv"]"#);
    assert_eq!(location(both.path(), "9.9.9.9").0, ["BE"]);
    // Where two of them speak of one prefix, either may be right.
    let three = folder(r#"["b.csv", "c.csv"]"#);
    assert_eq!(location(three.path(), "9.9.9.9").0, ["BE", "NL"]);
}

/// Addresses of services that answer from many places, one of each family.
const EVERYWHERE: [(&str, &str, &str); 12] = [
    ("Google Public DNS", "8.8.8.8", "2001:4860:4860::8888"),
    ("Google", "142.250.75.238", "2a00:1450:4007:80c::200e"),
    ("Cloudflare's resolver", "1.1.1.1", "2606:4700:4700::1111"),
    ("Meta", "157.240.196.35", "2a03:2880:f177:83:face:b00c:0:25de"),
    ("Apple", "17.253.144.10", "2620:149:af0::10"),
    ("Fastly", "146.75.0.1", "2a04:4e42::1"),
    ("Akamai", "23.40.0.1", "2a02:26f0:1::1"),
    ("Quad9", "9.9.9.9", "2620:fe::9"),
    ("OpenDNS", "208.67.222.222", "2620:119:35::35"),
    ("k.root-servers.net", "193.0.14.129", "2001:7fd::1"),
    ("a.gtld-servers.net", "192.5.6.30", "2001:503:a83e::2:30"),
    ("AdGuard DNS", "94.140.14.14", "2a10:50c0::ad1:ff"),
];

#[test]
fn what_answers_from_many_places_has_no_country_over_either_family() {
    let embedded = folder(r#"["embedded"]"#);
    for (service, v4, v6) in EVERYWHERE {
        for to in [v4, v6] {
            let answer = explain(embedded.path(), to);
            let at = &answer["location"];
            assert_eq!(at["anycast"], Value::Bool(true), "{service} at {to}: {at}");
            assert_eq!(at["codes"].as_array().unwrap().len(), 0, "{service} at {to}: {at}");
            let source = at["source"].as_str().unwrap_or_default();
            let known = ["built-in:anycast.csv", "built-in:edges.csv", "embedded:cloud"];
            assert!(known.contains(&source), "{service} at {to}: {at}");
            assert_eq!(answer["reason"], "anycast", "{service} at {to}");
        }
    }
}

#[test]
fn a_published_region_outranks_the_network_that_it_is_announced_from() {
    let embedded = folder(r#"["embedded"]"#);
    // europe-west9 and a part of asia-south2 that AS15169 itself announces.
    for (to, country) in [("34.155.0.1", "FR"), ("34.0.0.1", "IN")] {
        let (codes, source) = location(embedded.path(), to);
        assert_eq!((codes, source.as_str()), (vec![country.to_owned()], "embedded:cloud"), "{to}");
    }
}

#[test]
fn who_names_other_provider_lists_alone_is_answered_by_those_alone() {
    let own = folder(r#"["a.csv"]"#);
    for to in ["8.8.8.8", "2a03:2880:f177:83:face:b00c:0:25de"] {
        let answer = explain(own.path(), to);
        assert_eq!(answer["location"]["anycast"], Value::Bool(false), "{answer}");
    }
}

#[test]
fn a_census_of_anycast_prefixes_is_a_list_of_providers() {
    let census = folder(r#"["census.csv", "embedded"]"#);
    fs::write(
        census.path().join("census.csv"),
        "cidr,provider,region,country\n213.186.33.0/24,census,,ZZ\n3.120.5.0/24,census,,ZZ\n",
    )
    .unwrap();
    // The second lies in a region of AWS, which stays around it.
    for (to, anycast) in
        [("213.186.33.5", true), ("213.186.34.5", false), ("3.120.5.1", true), ("3.120.9.1", false)]
    {
        let answer = explain(census.path(), to);
        let at = &answer["location"];
        assert_eq!(at["anycast"], Value::Bool(anycast), "{to}: {at}");
        assert_eq!(at["codes"].as_array().unwrap().is_empty(), anycast, "{to}: {at}");
        assert_eq!(at["source"] == "census.csv", anycast, "{to}: {at}");
        // Whose it is does not follow from it.
        assert!(answer["operator"]["name"].is_string(), "{to}");
    }
}

#[test]
fn a_list_of_a_provider_grows_stale_by_itself_and_what_is_old_is_told_of() {
    // It is of 2026-09-16; 180 days later it is 2027-03-15.
    let first = folder(r#"["aws.json", "embedded"]"#);
    assert!(!steps(first.path(), "2027-03-15T12:00:00Z").contains("cause stale"));
    let later = steps(first.path(), "2027-03-17");
    assert!(later.contains("cause stale holds -> log"), "{later}");
    assert!(later.contains("that table is 181 days old"), "{later}");
    // The tables in the program do not, and a `max_age` that is written holds for all.
    let alone = folder(r#"["embedded"]"#);
    assert!(!steps(alone.path(), "2029-01-01").contains("cause stale"));
    let policy = first.path().join("policy.toml");
    let text = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, format!("{text}max_age = '1000d'\n")).unwrap();
    assert!(!steps(first.path(), "2027-03-17").contains("cause stale"));
    // `check` tells of tables older than 90 days; the date of this one is its file's.
    let feed = fs::File::options().append(true).open(first.path().join("a.csv")).unwrap();
    feed.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    fs::write(&policy, text.replace("aws.json", "a.csv")).unwrap();
    let check = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_schengate"));
        let output = command.args(["check", "--config"]).arg(&policy).args(more).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        output
    };
    let said = String::from_utf8_lossy(&check(&[]).stderr).into_owned();
    assert!(said.contains("warning: the table a.csv is ") && said.contains("days old"), "{said}");
    let told: Value = serde_json::from_slice(&check(&["--json"]).stdout).unwrap();
    let old = told["old_tables"].as_array().unwrap();
    assert!(old.iter().any(|old| old.as_str().unwrap().contains("a.csv")), "{told}");
}

#[test]
fn a_region_of_a_list_that_nobody_places_is_unknown_and_check_says_so() {
    let own = folder(r#"["own.csv", "embedded"]"#);
    let list = "cidr,provider,region,country\n\
                184.76.0.0/16,aws,eu-nowhere-9,\n\
                184.77.0.0/16,aws,eu-nowhere-8,FR\n\
                184.78.0.0/16,aws,eu-west-3,\n";
    fs::write(own.path().join("own.csv"), list).unwrap();
    let unplaced = explain(own.path(), "184.76.0.1");
    assert_eq!((&unplaced["verdict"], &unplaced["reason"]), (&"block".into(), &"unknown".into()));
    assert_eq!(location(own.path(), "184.76.0.1").0, [] as [&str; 0]);
    // The country table would place it, and is not asked: the list says that it is somewhere else.
    assert_eq!(location(own.path(), "184.77.0.1").0, ["FR"]);
    assert_eq!(location(own.path(), "184.78.0.1").0, ["FR"]);
    let check = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_schengate"));
        let output = command.args(["check", "--config"]).arg(own.path().join("policy.toml"));
        let output = output.args(more).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        output
    };
    let told = "the table own.csv: region aws:eu-nowhere-9: it is not in the built-in list of \
                regions; a [[place]] may say where it is";
    let said = String::from_utf8(check(&[]).stderr).unwrap();
    assert!(said.contains(&format!("warning: {told}\n")), "{said}");
    let answer: Value = serde_json::from_slice(&check(&["--json"]).stdout).unwrap();
    assert_eq!(answer["unplaced_regions"], serde_json::json!([told]));
}

#[test]
fn lists_that_contradict_each_other_open_nothing_that_one_of_them_refuses() {
    // Two lists of one provider: the first speaks. Two that name none: either may be right, so that
    // both have to be permitted. Two country tables: the first decides, the second disputes it.
    let two = folder(r#"["b.csv", "c.csv"]"#);
    let permit = |countries: &str, more: &str| {
        let text = format!(
            "schema = 1\n[policy]\npermit = {countries}\n[policy.on]\ndisputed = \"block\"\n\
             [data]\nproviders = [\"b.csv\", \"c.csv\"]\n{more}"
        );
        fs::write(two.path().join("policy.toml"), text).unwrap();
        let said = explain(two.path(), "9.9.9.9");
        (said["verdict"].as_str().unwrap().to_owned(), said["reason"].as_str().unwrap().to_owned())
    };
    let says = |action: &str, reason: &str| (action.to_owned(), reason.to_owned());
    assert_eq!(permit("[\"BE\", \"NL\"]", ""), says("allow", "permitted"));
    assert_eq!(permit("[\"BE\"]", ""), says("block", "outside"));
    assert_eq!(permit("[\"NL\"]", ""), says("block", "outside"));
    fs::write(two.path().join("b.csv"), "192.0.2.0/24,BE,,,\n").unwrap();
    fs::write(two.path().join("c.csv"), "198.51.100.0/24,BE,,,\n").unwrap();
    fs::write(two.path().join("first.csv"), "9.9.9.0,9.9.9.255,BE\n").unwrap();
    fs::write(two.path().join("second.csv"), "9.9.9.0,9.9.9.255,NL\n").unwrap();
    let tables = "country = [\"first.csv\", \"second.csv\"]\n";
    assert_eq!(permit("[\"BE\", \"NL\"]", tables), says("allow", "permitted"));
    assert_eq!(permit("[\"BE\"]", tables), says("block", "disputed"));
    assert_eq!(permit("[\"NL\"]", tables), says("block", "outside"));
}

/// The families are worked out side by side, each with numbers of its own for regions, operators and rules.
#[test]
fn what_is_said_of_one_family_is_not_taken_for_what_is_said_of_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let rows = "cidr,provider,region,country\n9.9.9.0/24,acme,north,NL\n\
                2620:fe::/48,acme,south,BE\n2620:fe:1::/48,acme,north,NL\n";
    fs::write(folder.path().join("acme.csv"), rows).unwrap();
    let rule = |name: &str, to: &str| {
        format!("[[rule]]\nname = '{name}'\nto = ['{to}']\naction = 'allow'\n")
    };
    let operator =
        "[[operator]]\nname = 'north-house'\nprefix = ['2620:fe:1::/48']\nhomes = ['NL']\n";
    let text = format!(
        "schema = 1\n[policy]\npermit = ['FR']\n[data]\nproviders = ['acme.csv']\n{operator}{}{}",
        rule("four", "9.9.9.0/25"),
        rule("six", "2620:fe::/49"),
    );
    fs::write(folder.path().join("policy.toml"), text).unwrap();
    let told = |to: &str| {
        let answer = explain(folder.path(), to);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let place = &answer["location"];
        let said = [&place["codes"][0], &place["region"], &answer["operator"]["name"]];
        (said.map(text), text(&answer["rule"]))
    };
    for (to, said, rule) in [
        ("9.9.9.9", ["NL", "acme:north", "quad9"], "four"),
        ("9.9.9.200", ["NL", "acme:north", "quad9"], ""),
        ("2620:fe::9", ["BE", "acme:south", "quad9"], "six"),
        ("2620:fe:0:8000::1", ["BE", "acme:south", "quad9"], ""),
        ("2620:fe:1::1", ["NL", "acme:north", "north-house"], ""),
    ] {
        assert_eq!(told(to), (said.map(str::to_owned), rule.to_owned()), "{to}");
    }
}
