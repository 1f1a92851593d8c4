//! Records as OCSF events: Network Activity (class 4001) with the profile `security_control`, as
//! <https://schema.ocsf.io> has them.
//!
//! Every attribute is one that version 1.1 has already, but for `autonomous_system` (1.2) and the
//! attestation of the profile `record_integrity` (1.9), which stand where that version is chosen. What
//! OCSF has no place for is in `unmapped`, under the names that docs/record.md has.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The oldest and the newest version that is written: 1.1 to 1.9.
pub const VERSIONS: std::ops::RangeInclusive<u8> = 1..=9;

/// Which form is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// The number behind `1.` of `metadata.version`.
    pub minor: u8,
    /// The name of the log, which identifies the chain that a record stands in; empty: not known.
    pub log: String,
}

/// What becomes of a connection, in the numbers of OCSF and in its words.
struct Ends {
    activity: (u64, &'static str),
    action: (u64, &'static str),
    disposition: (u64, &'static str),
    severity: (u64, &'static str),
    status: (u64, &'static str),
}

/// Fields that have a place of their own; the others go to `unmapped`.
const PLACED: &[&str] = &[
    "seq",
    "event",
    "id",
    "time",
    "client",
    "transport",
    "destination",
    "host",
    "asn",
    "rule",
    "basis",
    "bytes_up",
    "bytes_down",
    "duration_ms",
    "count",
    "first",
    "last",
    "end",
];

/// A record as an event; `None` of records that are of no connection (the gateway's own, and those that
/// only say how far a connection is). `leaf` is the hash of the record in the log, in hexadecimal digits.
#[must_use]
pub fn event(record: &Value, leaf: &str, form: &Form) -> Option<Value> {
    let text = |name: &str| record[name].as_str();
    let number = |name: &str| record[name].as_u64();
    let at = |name: &str| text(name)?.parse::<Timestamp>().ok().map(Timestamp::as_millisecond);
    let time = at("time")?;
    let Ends { activity, action, disposition, severity, status } = ends(record)?;
    let mut event = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            event.insert(name.to_owned(), value);
        }
    };
    put("class_uid", 4001.into());
    put("class_name", "Network Activity".into());
    put("category_uid", 4.into());
    put("category_name", "Network Activity".into());
    put("type_uid", (400_100 + activity.0).into());
    put("type_name", format!("Network Activity: {}", activity.1).into());
    for (name, (number, word)) in [
        ("activity", activity),
        ("action", action),
        ("disposition", disposition),
        ("severity", severity),
        ("status", status),
    ] {
        put(&format!("{name}_id"), number.into());
        put(if name == "activity" { "activity_name" } else { name }, word.into());
    }
    put("time", time.into());
    let duration = number("duration_ms").filter(|_| text("event") == Some("close"));
    put("duration", json!(duration));
    let began = duration.and_then(|ms| time.checked_sub_unsigned(ms));
    put("start_time", json!(at("first").or(began)));
    put("end_time", json!(at("last").or_else(|| duration.map(|_| time))));
    put("count", json!(number("count")));
    put("status_detail", json!(text("end")));
    put("src_endpoint", endpoint(text("client"), None, None));
    let asn = number("asn").filter(|_| form.minor >= 2);
    let mut destination = endpoint(text("destination"), text("host"), asn);
    // One country is a place; of several nobody knows which.
    if let Some([Value::String(country)]) = record["location"].as_array().map(Vec::as_slice) {
        destination["location"] = json!({ "country": country });
    }
    put("dst_endpoint", destination);
    let protocol = match text("transport") {
        Some("tcp") => Some(6),
        Some("udp") => Some(17),
        _ => None,
    };
    let mut connection = json!({ "direction_id": 2, "direction": "Outbound" });
    if let Some(protocol) = protocol {
        connection["protocol_num"] = protocol.into();
        connection["protocol_name"] = json!(text("transport"));
    }
    put("connection_info", connection);
    // Out is what the client sent.
    if let (Some(up), Some(down)) = (number("bytes_up"), number("bytes_down")) {
        let both = up.saturating_add(down);
        put("traffic", json!({ "bytes_out": up, "bytes_in": down, "bytes": both }));
    }
    if let Some(rule) = text("rule").filter(|rule| !rule.is_empty()) {
        let mut rule = json!({ "name": rule });
        if let Some(basis) = text("basis") {
            rule["desc"] = basis.into();
        }
        put("firewall_rule", rule);
    }
    let mut profiles = vec!["security_control"];
    if form.minor >= 9 {
        profiles.push("record_integrity");
        let mut attestation = json!({
            "uid": text("id"),
            "fingerprint": { "algorithm": "SHA-256", "algorithm_id": 3, "value": leaf },
        });
        if !form.log.is_empty() {
            attestation["chain_uid"] = form.log.as_str().into();
        }
        put("attestation_list", json!([attestation]));
    }
    let mut metadata = json!({
        "version": format!("1.{}.0", form.minor),
        "product": {
            "name": "schengate", "vendor_name": "schengate", "version": env!("CARGO_PKG_VERSION"),
        },
        "profiles": profiles, "log_name": "audit", "original_time": text("time"),
    });
    for (name, value) in
        [("uid", &record["id"]), ("event_code", &record["event"]), ("sequence", &record["seq"])]
    {
        if !value.is_null() {
            metadata[name] = value.clone();
        }
    }
    put("metadata", metadata);
    let rest = record.as_object().into_iter().flatten();
    let rest = rest.filter(|(name, value)| !value.is_null() && !PLACED.contains(&name.as_str()));
    put(
        "unmapped",
        Value::Object(rest.map(|(name, value)| (name.clone(), value.clone())).collect()),
    );
    Some(Value::Object(event))
}

/// What became of it; `None` of what is no connection.
fn ends(record: &Value) -> Option<Ends> {
    let text = |name: &str| record[name].as_str();
    let activity = match (text("event")?, text("end")) {
        ("open", _) => (1, "Open"),
        ("close", Some("client-reset" | "upstream-reset")) => (3, "Reset"),
        (
            "close",
            Some(
                "connect-refused" | "connect-timed-out" | "connect-unreachable" | "connect-failed",
            ),
        )
        | ("unjudged", _) => (4, "Fail"),
        ("close", _) => (2, "Close"),
        ("refused", _) => (5, "Refuse"),
        ("asked", _) => (6, "Traffic"),
        _ => return None,
    };
    let (action, disposition) = match text("verdict") {
        Some("allow") => ((1, "Allowed"), (1, "Allowed")),
        Some("log") => ((1, "Allowed"), (17, "Logged")),
        Some("block") => ((2, "Denied"), (2, "Blocked")),
        _ => ((0, "Unknown"), (0, "Unknown")),
    };
    let severity = if action.0 == 2 { (2, "Low") } else { (1, "Informational") };
    let status = match (activity.0, action.0) {
        (3 | 4, _) | (_, 2) => (2, "Failure"),
        (_, 1) => (1, "Success"),
        _ => (0, "Unknown"),
    };
    Some(Ends { activity, action, disposition, severity, status })
}

/// One end of a connection. OCSF wants one that says who it is, also where nobody knows.
fn endpoint(address: Option<&str>, host: Option<&str>, asn: Option<u64>) -> Value {
    let mut endpoint = Map::new();
    let socket = address.and_then(|address| address.parse::<std::net::SocketAddr>().ok());
    match (socket, address) {
        (Some(socket), _) => {
            endpoint.insert("ip".to_owned(), socket.ip().to_string().into());
            endpoint.insert("port".to_owned(), socket.port().into());
        }
        // A pseudonym, or a prefix.
        (None, Some(other)) => drop(endpoint.insert("uid".to_owned(), other.into())),
        (None, None) => {}
    }
    if let Some(host) = host {
        // What a client said may be no host name at all, and OCSF takes no other there.
        let name = if is_host_name(host) { "hostname" } else { "name" };
        endpoint.insert(name.to_owned(), host.into());
    }
    if endpoint.is_empty() {
        endpoint.insert("name".to_owned(), "unknown".into());
    }
    if let Some(asn) = asn {
        endpoint.insert("autonomous_system".to_owned(), json!({ "number": asn }));
    }
    Value::Object(endpoint)
}

/// Letters, digits and hyphens between dots (RFC 1123 §2.1).
fn is_host_name(host: &str) -> bool {
    host.split('.').all(|label| {
        let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let ends = !label.starts_with('-') && !label.ends_with('-');
        !label.is_empty() && ends && label.bytes().all(is_inside)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(event: &str, verdict: &str, end: Option<&str>) -> Value {
        json!({ "seq": 7, "event": event, "id": "19a-7", "time": "2026-11-30T10:00:01.500Z",
            "client": "10.0.0.9:50000", "transport": "tcp", "destination": "[2001:db8::1]:443",
            "host": "a.example", "location": ["DE"], "asn": 64500, "rule": "r", "basis": "art. 46",
            "verdict": verdict, "reason": "rule", "bytes_up": 3, "bytes_down": 4,
            "duration_ms": 1500, "end": end, "sni_inside": null })
    }

    #[test]
    fn what_became_of_a_connection_is_in_the_numbers_of_the_schema() {
        let form = Form { minor: 1, log: String::new() };
        let told = |event_: &str, verdict: &str, end| {
            let event = event(&record(event_, verdict, end), "00", &form).unwrap();
            ["activity_id", "action_id", "disposition_id", "status_id", "type_uid"]
                .map(|name| event[name].as_u64().unwrap())
        };
        assert_eq!(told("open", "allow", None), [1, 1, 1, 1, 400_101]);
        assert_eq!(told("close", "log", Some("done")), [2, 1, 17, 1, 400_102]);
        assert_eq!(told("close", "allow", Some("client-reset")), [3, 1, 1, 2, 400_103]);
        assert_eq!(told("close", "allow", Some("connect-refused")), [4, 1, 1, 2, 400_104]);
        assert_eq!(told("refused", "block", Some("refused")), [5, 2, 2, 2, 400_105]);
        assert_eq!(told("unjudged", "", Some("client-gone")), [4, 0, 0, 2, 400_104]);
        for other in ["update", "start", "gap", "nothing"] {
            assert_eq!(event(&record(other, "allow", None), "00", &form), None, "{other}");
        }
    }

    #[test]
    fn each_version_has_what_it_knows_and_no_more() {
        for minor in VERSIONS {
            let form = Form { minor, log: "a log".to_owned() };
            let event = event(&record("close", "allow", Some("done")), "ab", &form).unwrap();
            assert_eq!(event["metadata"]["version"], format!("1.{minor}.0"));
            let knows = [
                event["dst_endpoint"].get("autonomous_system").is_some(),
                event.get("attestation_list").is_some(),
            ];
            assert_eq!(knows, [minor >= 2, minor == 9], "1.{minor}");
            assert_eq!(
                event["start_time"].as_i64().unwrap() + 1500,
                event["time"].as_i64().unwrap()
            );
            assert_eq!(event["dst_endpoint"]["ip"], "2001:db8::1");
            assert_eq!(
                event["unmapped"],
                json!({ "location": ["DE"], "reason": "rule", "verdict": "allow" })
            );
        }
    }
}
