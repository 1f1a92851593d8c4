//! docs/policy.md has every key of the file as the reader has it. With `SCHENGATE_WRITE_PAGES=1` the
//! tables of the page are written anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use schengate::control::config::{self, keys};
use schengate::policy::Reason;
use schengate::report::texts::Texts;
use schengate::report::world::Language;
use serde_json::Value;

fn page() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/policy.md"))
}

/// The tables of the file in the order of the reader's keys.
fn tables() -> Vec<&'static str> {
    let mut once = BTreeSet::new();
    keys::KEYS.iter().map(|key| key.table).filter(|&table| once.insert(table)).collect()
}

#[test]
fn the_page_has_every_key_as_the_reader_has_it() {
    let writes = std::env::var_os("SCHENGATE_WRITE_PAGES").is_some();
    let mut text = fs::read_to_string(page()).unwrap();
    for table in tables() {
        let mark = format!("<!-- keys: {} -->\n", if table.is_empty() { "top" } else { table });
        let (_, rest) = text.split_once(&mark).unwrap_or_else(|| panic!("no {mark}"));
        let end = rest.find("\n\n").map_or(rest.len(), |end| end + 1);
        let (shown, wanted) = (rest[..end].to_owned(), keys::page(table));
        if writes {
            text = text.replacen(&format!("{mark}{shown}"), &format!("{mark}{wanted}"), 1);
        } else {
            assert_eq!(shown, wanted, "[{table}]; SCHENGATE_WRITE_PAGES=1 writes the table anew");
        }
    }
    if writes {
        fs::write(page(), text).unwrap();
    }
}

/// What a file needs besides a key of this table, and the keys of the table that are required.
fn beside(table: &str) -> (&'static str, &'static [(&'static str, &'static str)]) {
    const TABLE_FILE: &str = "[data]\ncountry = [\"t.csv\"]\n";
    match table {
        "" | "policy" => ("", &[]),
        "group" => ("", &[("name", "\"g\""), ("clients", "[\"10.0.0.0/8\"]")]),
        "rule" => ("", &[("name", "\"r\""), ("action", "\"block\""), ("to", "[\"192.0.2.0/24\"]")]),
        "operator" => ("", &[("name", "\"o\""), ("asn", "[64500]"), ("homes", "[\"FR\"]")]),
        "place" => ("", &[("to", "[\"192.0.2.0/24\"]"), ("location", "[\"FR\"]")]),
        "dns" => ("[names]\nresolvers = [\"192.0.2.53:53\"]\n", &[("listen", "\"192.0.2.1:53\"")]),
        "listen" => ("", &[("mode", "\"tproxy\""), ("address", "\"127.0.0.1:15001\"")]),
        "lane" => (
            "[[listen]]\nmode = \"tproxy\"\naddress = \"127.0.0.1:15001\"\n",
            &[("mode", "\"lane\"")],
        ),
        "capture" => ("[[listen]]\nmode = \"tproxy\"\naddress = \"127.0.0.1:15001\"\n", &[]),
        "data" => ("", &[("country", "[\"t.csv\"]")]),
        "data.update" => (
            TABLE_FILE,
            &[("source", "[{ name = \"a\", url = \"https://data.example/t\", file = \"t.csv\" }]")],
        ),
        "data.update.source" => (
            TABLE_FILE,
            &[
                ("name", "\"a\""),
                ("url", "\"https://data.example/t.csv\""),
                ("file", "\"t.csv\""),
                ("key", "\"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\""),
            ],
        ),
        _ => ("", &[]),
    }
}

/// A policy in which nothing but `key` could be wrong; without it where it has no value.
fn file(key: &keys::Key, value: Option<&str>) -> String {
    let of_lane = ["queues", "interface", "on_death"].contains(&key.name);
    let (before, required) = beside(if of_lane { "lane" } else { key.table });
    let with = match key.name {
        "pack_key" => Some(("pack", "\"site.sgp\"")),
        "certificate" => Some(("key", "\"admin.key\"")),
        "key" if key.table == "admin" => Some(("certificate", "\"admin.pem\"")),
        "user" | "auth" | "header" => Some(("credential", "\"c\"")),
        _ => None,
    };
    let tls = "certificate = \"admin.pem\"\nkey = \"admin.key\"\n";
    let more = if key.name == "client_ca" { tls } else { "" };
    let own = value.map(|value| (key.name, value)).into_iter().chain(with);
    let others = required.iter().filter(|(name, _)| {
        // One of the two says where a place is; a service stands in place of addresses.
        let instead = [("anycast", "location"), ("service", "to")].contains(&(key.name, *name));
        *name != key.name && !instead
    });
    let lines: String =
        own.chain(others.copied()).map(|(name, value)| format!("{name} = {value}\n")).collect();
    let policy = if ["policy.on", "policy"].contains(&key.table) || key.name == "policy" {
        String::new()
    } else {
        "[policy]\npermit = [\"FR\"]\n".to_owned()
    };
    let lists = ["group", "rule", "operator", "place", "listen", "data.update.source"];
    match key.table {
        "" if key.name == "schema" => format!("{lines}{policy}"),
        "" if key.name == "dns" => {
            format!("schema = 1\n{lines}{policy}[names]\nresolvers = [\"192.0.2.53:53\"]\n")
        }
        "" => format!("schema = 1\n{lines}{policy}"),
        "policy" if key.name == "permit" => format!("schema = 1\n[policy]\n{lines}"),
        "policy" => format!("schema = 1\n[policy]\npermit = [\"FR\"]\n{lines}"),
        "policy.on" => format!("schema = 1\n[policy]\npermit = [\"FR\"]\n[policy.on]\n{lines}"),
        table if lists.contains(&table) => {
            format!("schema = 1\n{policy}{before}[[{table}]]\n{lines}")
        }
        table => format!("schema = 1\n{policy}{before}[{table}]\n{lines}{more}"),
    }
}

#[test]
fn every_example_is_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hosts.txt"), "host.example\n").unwrap();
    let services = "service,endpoint,use,source,as_of\n\
                    ours/mail,mail.example,,https://example.eu/services,2026-11-30\n";
    fs::write(folder.path().join("services.csv"), services).unwrap();
    for key in keys::KEYS {
        let path = folder.path().join("policy.toml");
        let text = file(key, Some(key.example));
        fs::write(&path, &text).unwrap();
        let loaded = config::load(Some(&path));
        assert!(loaded.is_ok(), "{}.{}:\n{text}\n{}", key.table, key.name, loaded.unwrap_err());
    }
}

#[test]
fn no_key_stands_in_the_table_and_is_not_read() {
    for key in keys::KEYS {
        let is_table = matches!(key.form, keys::Form::Table | keys::Form::Tables);
        let text = file(key, Some(if is_table { "7" } else { "{ x = 1 }" }));
        let faults = config::parse(&text, None).expect_err(&text);
        let dot = if key.table.is_empty() { "" } else { "." };
        let path = format!("{}{dot}{}", key.table, key.name);
        let is_named = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let named =
            faults.0.iter().any(|fault| fault.key.strip_prefix(&path).is_some_and(is_named));
        assert!(named, "{path}:\n{text}\n{faults}");
    }
}

#[test]
fn a_default_that_is_a_value_is_what_holds_without_the_key() {
    let is_value = |text: &str| {
        let plain = text.parse::<u64>().is_ok() || text.parse::<bool>().is_ok();
        plain || text.starts_with(['"', '['])
    };
    let mut seen = 0;
    for key in keys::KEYS.iter().filter(|key| is_value(key.default)) {
        let read = |value| {
            let text = file(key, value);
            let loaded = config::parse(&text, None).unwrap_or_else(|faults| panic!("{faults}"));
            config::Config { lines: 0, ..loaded.config }
        };
        seen += 1;
        let (written, unwritten) = (read(Some(key.default)), read(None));
        assert_eq!(format!("{written:?}"), format!("{unwritten:?}"), "{}.{}", key.table, key.name);
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn the_fuzzers_dictionary_has_every_key() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/dict/policy_file");
    let mut words: BTreeSet<String> =
        fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
    let missing: Vec<String> = keys::KEYS
        .iter()
        .map(|key| format!("\"{}\"", key.name))
        .filter(|word| !words.contains(word))
        .collect();
    if std::env::var_os("SCHENGATE_WRITE_PAGES").is_some() {
        words.extend(missing);
        fs::write(path, words.into_iter().map(|word| word + "\n").collect::<String>()).unwrap();
    } else {
        assert!(missing.is_empty(), "{missing:?}; SCHENGATE_WRITE_PAGES=1 adds them");
    }
}

/// Each list of words under a property of this name, wherever it stands.
fn enums<'a>(value: &'a Value, name: &str, found: &mut Vec<Vec<&'a str>>) {
    if let Some(fields) = value.as_object() {
        for (field, value) in fields {
            if let Some(words) = value["enum"].as_array().filter(|_| field == name) {
                found.push(words.iter().filter_map(Value::as_str).collect());
            }
            enums(value, name, found);
        }
    }
    for value in value.as_array().into_iter().flatten() {
        enums(value, name, found);
    }
}

#[test]
fn the_schemas_of_the_record_and_of_the_api_have_every_reason() {
    for (page, lists) in [("docs/record.schema.json", 1), ("docs/openapi.json", 5)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
        let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let mut found = Vec::new();
        enums(&schema, "reason", &mut found);
        assert!(found.len() >= lists, "{page}: {found:?}");
        let wanted: Vec<&str> = Reason::ALL.into_iter().map(Reason::label).collect();
        assert!(found.iter().all(|words| *words == wanted), "{page}: {found:?}");
    }
}

#[test]
fn the_report_has_words_for_every_reason_in_each_language() {
    for language in [Language::En, Language::Fr] {
        for reason in Reason::ALL.map(Reason::label) {
            assert_ne!(Texts::of(language).reason_of(reason), reason, "{language:?}");
        }
    }
}
