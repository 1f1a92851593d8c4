//! Writes small files in MaxMind's binary form (<https://maxmind.github.io/MaxMind-DB/>), so that no
//! test needs anybody's.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// What precedes the metadata.
pub(crate) const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";

/// The seconds of 2026-06-01.
pub(crate) const JUNE: u64 = 1_780_272_000;

/// A file of disjoint IPv4 prefixes, records of 32 bits, with this date in its metadata.
pub(crate) fn mmdb(rows: &[(&str, Value)], built: u64) -> Vec<u8> {
    let mut data = Vec::new();
    let mut tree = vec![[Child::Nobody; 2]];
    for (prefix, record) in rows {
        let at = data.len();
        encode(record, &mut data);
        let (address, length) = prefix.split_once('/').unwrap();
        let bits = address.parse::<Ipv4Addr>().unwrap().to_bits();
        let length: u32 = length.parse().unwrap();
        let mut node = 0;
        for depth in 0..length {
            let side = (bits >> (31 - depth) & 1) as usize;
            if depth + 1 == length {
                tree[node][side] = Child::Data(at);
            } else if let Child::Node(next) = tree[node][side] {
                node = next;
            } else {
                tree.push([Child::Nobody; 2]);
                tree[node][side] = Child::Node(tree.len() - 1);
                node = tree.len() - 1;
            }
        }
    }
    let nodes = tree.len();
    let mut file = Vec::new();
    for child in tree.into_iter().flatten() {
        let record = match child {
            Child::Nobody => nodes,
            Child::Node(next) => next,
            Child::Data(at) => nodes + 16 + at,
        };
        file.extend(u32::try_from(record).unwrap().to_be_bytes());
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend(MARKER);
    let metadata = json!({
        "node_count": nodes, "record_size": 32, "ip_version": 4, "database_type": "Test-Country",
        "languages": [], "binary_format_major_version": 2, "binary_format_minor_version": 0,
        "build_epoch": built, "description": {},
    });
    encode(&metadata, &mut file);
    file
}

#[derive(Clone, Copy)]
enum Child {
    Nobody,
    Node(usize),
    Data(usize),
}

/// A value as the data section has it.
fn encode(value: &Value, out: &mut Vec<u8>) {
    let head = |kind: u8, size: usize, out: &mut Vec<u8>| {
        // Kinds above 7 stand in a byte of their own, sizes from 29 on as well.
        let small = size.min(29) as u8;
        out.push(if kind < 8 { kind << 5 | small } else { small });
        if kind >= 8 {
            out.push(kind - 7);
        }
        if size >= 29 {
            out.push(u8::try_from(size - 29).unwrap());
        }
    };
    match value {
        Value::String(text) => {
            head(2, text.len(), out);
            out.extend(text.as_bytes());
        }
        Value::Number(_) => panic!("a number's width is that of its key"),
        Value::Bool(yes) => head(14, usize::from(*yes), out),
        Value::Array(list) => {
            head(11, list.len(), out);
            list.iter().for_each(|value| encode(value, out));
        }
        Value::Object(map) => {
            head(7, map.len(), out);
            for (key, value) in map {
                encode(&json!(key), out);
                let Some(number) = value.as_u64() else {
                    encode(value, out);
                    continue;
                };
                // Widths of 16, 32 and 64 bits are kinds of their own.
                let kind = match key.as_str() {
                    "node_count" | "autonomous_system_number" => 6,
                    "build_epoch" => 9,
                    _ => 5,
                };
                let bytes = number.to_be_bytes();
                let bytes = &bytes[bytes.iter().take_while(|&&byte| byte == 0).count()..];
                head(kind, bytes.len(), out);
                out.extend(bytes);
            }
        }
        Value::Null => panic!("the form has no null"),
    }
}

/// `{"country": {"iso_code": code}}`.
pub(crate) fn country(code: &str) -> Value {
    json!({"country": {"iso_code": code}})
}
