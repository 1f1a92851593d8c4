//! Whose connections the record is of, where it is not to say so to everybody.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use schengate::evidence::{Segment, reveal};
use serde_json::{Value, json};

use crate::audit::{checked, records, schengate};
use crate::audit_gateway::{NOTED, fits, policy, schema};
use crate::lab::{Lab, PERMITTED, REFUSED, at, lab, wait_until};

/// The client of the laboratory.
const CLIENT: [&str; 2] = ["192.0.2.2", "2001:db8:1::2"];

/// Every file of a directory and below it, and what is in its segments.
fn bytes(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(bytes(&path));
        } else if let Ok(read) = fs::read(&path) {
            all.push((path.display().to_string(), read));
        }
    }
    for segment in Segment::all(directory).unwrap() {
        all.push((format!("records of {}", segment.name()), segment.records().unwrap()));
    }
    all
}

/// Where the client's address stands, as a text or as octets.
fn places(of: &[(String, Vec<u8>)]) -> Vec<&str> {
    let mut wanted: Vec<Vec<u8>> = Vec::new();
    for address in CLIENT {
        let ip: IpAddr = address.parse().unwrap();
        if ip.is_ipv6() {
            wanted.push(address.as_bytes().to_vec());
        }
        match ip {
            IpAddr::V4(ip) => {
                wanted.push([&ip.octets()[..], &[0; 4]].concat());
                wanted.push(ip.to_ipv6_mapped().octets().to_vec());
            }
            IpAddr::V6(ip) => wanted.push(ip.octets().to_vec()),
        }
    }
    let stands = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|one| one == part);
    let has = |bytes: &[u8]| {
        wanted.iter().any(|part| stands(bytes, part))
            // The address, and not one that it begins.
            || bytes.split(|byte| !byte.is_ascii_digit() && *byte != b'.').any(|word| word == b"192.0.2.2")
    };
    of.iter().filter(|(_, bytes)| has(bytes)).map(|(name, _)| name.as_str()).collect()
}

/// Has the client ask for both addresses, and both kinds of answer, and waits for the record of them.
fn asks(lab: &Lab, directory: &Path) -> Vec<Value> {
    let _world = lab.world.helper("audit-world");
    let mut client = lab.client.helper("audit-client");
    for ip in PERMITTED {
        client.ask(&json!({ "do": "once", "to": at(ip, NOTED) }));
    }
    for ip in REFUSED {
        client.ask(&json!({ "do": "once", "to": at(ip, NOTED) }));
    }
    wait_until("the record has them", || {
        let records = records(directory);
        let count = |event: &str| records.iter().filter(|one| one["event"] == event).count();
        (count("open") >= 2 && count("close") >= 2 && count("refused") >= 2).then_some(records)
    });
    records(directory)
}

#[test]
fn no_address_of_a_client_is_anywhere_and_the_key_tells_whose_it_was_until_it_is_gone() {
    let Some(lab) = lab("pseudonym") else { return };
    let dir = tempfile::tempdir().unwrap();
    let more = "clients = 'pseudonym'\nregister = true\n[log]\nconnections = 'all'";
    let mut gateway = lab.start_gateway(&policy(dir.path(), more));
    gateway.capture();
    let records_before = asks(&lab, dir.path());
    let directory = dir.path().to_str().unwrap();
    let keys = dir.path().join("pseudonym-keys");
    let of_clients: Vec<&Value> =
        records_before.iter().filter(|one| one["client_sealed"].is_string()).collect();
    assert!(of_clients.len() >= 6, "{records_before:?}");
    let told = |one: &Value| {
        reveal(&keys, one["client"].as_str().unwrap(), one["client_sealed"].as_str().unwrap())
    };
    for one in &of_clients {
        let address = told(one).unwrap().to_string();
        assert!(CLIENT.contains(&&*address), "{address}");
        assert_eq!(address.contains(':'), one["destination"].as_str().unwrap().starts_with('['));
    }
    // While the gateway writes: it takes the question up, and signs it.
    let of = |event: &str| of_clients.iter().find(|one| one["event"] == event).unwrap();
    let (id, pseudonym) =
        (of("open")["id"].as_str().unwrap(), of("refused")["client"].as_str().unwrap());
    let (code, out, said) =
        schengate(&["audit", "reveal", directory, id, "--purpose", "=1+1\n\u{202e}incident 7"]);
    assert_eq!((code, out), (0, format!("{}\n", told(of("open")).unwrap())), "{said}");
    let asked = |wanted: &str| {
        let records = records(dir.path());
        let found = records.iter().filter(|one| one["event"] == "reveal" && one["asked"] == wanted);
        found.cloned().collect::<Vec<Value>>()
    };
    assert_eq!(asked(id)[0]["purpose"], "=1+1\n\u{202e}incident 7");
    assert_eq!(asked(id)[0]["client"], of("open")["client"]);
    assert_eq!(schengate(&["audit", "reveal", directory, "p00000000-0"]).0, 1);
    let metrics = gateway.metrics();
    gateway.stop();
    let log = fs::read(lab.write("asked", "").with_file_name("gateway.log")).unwrap();
    assert!(String::from_utf8_lossy(&log).contains(pseudonym), "people see the pseudonym");
    // And while nobody does.
    let (code, out, said) = schengate(&["audit", "reveal", directory, pseudonym]);
    assert_eq!((code, out), (0, format!("{}\n", told(of("refused")).unwrap())), "{said}");
    assert_eq!(asked(pseudonym).len(), 1);
    let mut all = bytes(dir.path());
    all.push(("the log".to_owned(), log));
    all.push(("the metrics".to_owned(), metrics.into_bytes()));
    assert!(all.iter().any(|(name, _)| name.ends_with("register.db")), "there is a register");
    assert_eq!(places(&all), Vec::<&str>::new());
    let schema = schema();
    for record in records(dir.path()) {
        if let Err(why) = fits(&schema, &record) {
            panic!("{why}");
        }
    }
    // Who it was is gone with the key, and nothing else is.
    fs::remove_dir_all(&keys).unwrap();
    let (code, out, said) = schengate(&["audit", "reveal", directory, id]);
    assert!(code != 0 && out.is_empty(), "{said}");
    fs::create_dir(&keys).unwrap();
    let (code, out, said) = schengate(&["audit", "reveal", directory, id]);
    assert!(code == 1 && out.is_empty() && said.contains("destroyed"), "{said}");
    let report = checked(dir.path());
    assert!(report.holds() && report.signed == report.records, "{report:?}");
}

#[test]
fn a_prefix_is_all_that_stands_of_a_client() {
    let Some(lab) = lab("prefix") else { return };
    let dir = tempfile::tempdir().unwrap();
    let more = "clients = 'prefix'\n[log]\nconnections = 'all'";
    let mut gateway = lab.start_gateway(&policy(dir.path(), more));
    gateway.capture();
    let records = asks(&lab, dir.path());
    let metrics = gateway.metrics();
    gateway.stop();
    let clients: Vec<&str> = records.iter().filter_map(|one| one["client"].as_str()).collect();
    assert!(clients.iter().all(|one| ["192.0.2.0/24", "2001:db8:1::/48"].contains(one)));
    assert!(clients.contains(&"192.0.2.0/24") && clients.contains(&"2001:db8:1::/48"));
    assert!(records.iter().all(|one| one["client_sealed"].is_null()));
    let mut all = bytes(dir.path());
    let log = fs::read(lab.write("asked", "").with_file_name("gateway.log")).unwrap();
    all.push(("the log".to_owned(), log));
    all.push(("the metrics".to_owned(), metrics.into_bytes()));
    assert_eq!(places(&all), Vec::<&str>::new());
    // The search finds what is there.
    let plain = "192.0.2.2:40000".as_bytes().to_vec();
    assert_eq!(places(&[("plain".to_owned(), plain)]), ["plain"]);
    assert_eq!(places(&[("longer".to_owned(), b"192.0.2.25".to_vec())]).len(), 0);
}
