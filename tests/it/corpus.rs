//! The developer corpus of real first flights, read through `inspect` and judged by its own rules
//! (its README, "How a result is judged").

use std::collections::BTreeMap;
use std::path::PathBuf;

use schengate::inspect::{Flow, Form, inspect_file};
use serde_json::Value;

/// Cases on which the expectation is not followed, and why. Each is checked to still differ.
const DIFFERENCES: &[(&str, &str)] = &[(
    "udp/g3-packet-mod.bin",
    "the version is that of the first long-header packet, says the README: v1, and v2 follows",
)];

/// The corpus lies beside the repository, not in it.
fn shared() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let shared = std::env::var_os("SCHENGATE_SHARED").map_or(beside, PathBuf::from);
    shared.join("corpus/expect.jsonl").is_file().then_some(shared)
}

#[test]
fn every_flight_of_the_corpus_is_read_as_its_oracles_do() {
    let Some(shared) = shared() else {
        println!("LEFT OUT: the corpus of first flights is not here (set SCHENGATE_SHARED)");
        return;
    };
    let home = shared.join("corpus");
    let mut kinds: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    let mut misses = Vec::new();
    let mut followed = 0;
    let expectations = std::fs::read_to_string(home.join("expect.jsonl")).unwrap();
    for line in expectations.lines() {
        let expected: Value = serde_json::from_str(line).unwrap();
        let file = expected["file"].as_str().unwrap();
        let form = if file.starts_with("udp/") { Form::Datagrams } else { Form::Stream };
        let mut flows = Vec::new();
        inspect_file(&home.join(file), form, |flow| flows.push(flow)).unwrap();
        let [flow] = &flows[..] else { panic!("{file}: {} flows", flows.len()) };
        let bad = judge(&expected, flow);
        let kind = expected["kind"].as_str().unwrap();
        let known = DIFFERENCES.iter().any(|(known, _)| *known == file);
        assert!(
            !known || !bad.is_empty(),
            "{file} is no longer a difference: take it off the list"
        );
        if kind.starts_with("starttls") && flow.upgraded.is_some() {
            followed += 1;
        }
        let count = kinds.entry(kind.to_owned()).or_default();
        count[usize::from(!bad.is_empty())] += 1;
        if !bad.is_empty() && !known {
            misses.push(format!("{file}: {}", bad.join("; ")));
        }
    }
    println!("{:24} {:>6} {:>6}", "kind", "match", "miss");
    for (kind, [matches, misses]) in &kinds {
        println!("{kind:24} {matches:>6} {misses:>6}");
    }
    println!("upgrades followed to their hello: {followed}");
    assert!(misses.is_empty(), "{} misses:\n{}", misses.len(), misses.join("\n"));
}

fn judge(expected: &Value, flow: &Flow) -> Vec<String> {
    let mut bad = Vec::new();
    let text = |key: &str| expected[key].as_str();
    let proto = flow.proto.label();
    let accepted = |key: &str, value: Option<&str>| {
        expected[key]
            .as_array()
            .is_some_and(|list| list.iter().any(|entry| normal(entry.as_str()) == normal(value)))
    };
    let flag = |key: &str| expected[key].as_bool().unwrap_or(false);
    let kind = text("kind").unwrap();
    let sni = normal(flow.sni.as_deref());
    // A wrong name is never right, whatever else is.
    let right_name = sni == normal(text("sni"))
        || accepted("accept_sni", flow.sni.as_deref())
        || sni == normal(text("sni_partial"));
    if sni.is_some() && !right_name && !flag("robust") {
        bad.push(format!("WRONG NAME {sni:?}, expected {:?}", text("sni")));
    }
    if flag("robust") {
        return bad;
    }
    let right_proto = Some(proto) == text("proto") || accepted("accept_proto", Some(proto));
    if !right_proto {
        bad.push(format!("proto {proto}, expected {:?}", text("proto")));
    }
    if kind.starts_with("starttls") {
        return bad;
    }
    if sni.is_none() && text("sni").is_some() && !accepted("accept_sni", None) {
        bad.push(format!("no name, expected {:?}", text("sni")));
    }
    let hello = matches!(text("proto"), Some("tls" | "quic")) && !flag("incomplete");
    if hello && expected.get("accept_proto").is_none() && flow.ech != flag("ech") {
        bad.push(format!("ech {}", flow.ech));
    }
    let alpn: Vec<_> =
        expected["alpn"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    if hello && !alpn.is_empty() && flow.alpn != alpn {
        bad.push(format!("alpn {:?}, expected {alpn:?}", flow.alpn));
    }
    if hello && flow.quic_version.as_deref() != text("quic_version") {
        bad.push(format!("version {:?}, expected {:?}", flow.quic_version, text("quic_version")));
    }
    let judged = !flag("accept_host_any") && !flag("incomplete") && proto == "http";
    if text("proto") == Some("http") && judged {
        let host = flow.host.as_deref().map(host_only);
        let right = [text("host"), text("http_target")].map(|host| host.map(host_only));
        if host != right[0] && !(right[1].is_some() && host == right[1]) {
            bad.push(format!("host {host:?}, expected {right:?}"));
        }
    }
    bad
}

/// Names compare without case and without a final dot.
fn normal(name: Option<&str>) -> Option<String> {
    let name = name?.trim().to_lowercase();
    Some(name.trim_end_matches('.').to_owned()).filter(|name| !name.is_empty())
}

fn host_only(host: &str) -> String {
    let host = host.trim().to_lowercase();
    let without_port = match (host.strip_prefix('['), host.rsplit_once(':')) {
        (Some(address), _) => address.split(']').next(),
        (None, Some((name, _))) if host.matches(':').count() == 1 => Some(name),
        (None, _) => Some(host.as_str()),
    };
    without_port.unwrap_or_default().trim_end_matches('.').to_owned()
}
