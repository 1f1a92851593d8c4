//! MaxMind's binary form, whoever wrote it (GEODATA: GeoIP2, GeoLite2, DB-IP, ip-location-db,
//! IPinfo): the shape of a record is told by its content.
//!
//! The tree is walked here and not by the reader's iterator, because a file may come from anywhere:
//! a node that is its own child gives that iterator 2^128 networks. Each node is entered once, so
//! the walk is bounded by the file's size; each record is decoded once, by the `maxminddb` crate.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use jiff::Timestamp;
use maxminddb::{MaxMindDbError, Reader};
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::ranges::{Builder, RangeFault};
use crate::control::data::model::{Located, Ranges};
use crate::control::data::settings::CountryField;
use crate::policy::Country;

/// How far before the end of a file its marker stands at most.
pub(in crate::control::data) const MARKER_WITHIN: u64 = 128 << 10;

/// What precedes the metadata.
const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";

/// Whether the bytes are in this form.
pub(in crate::control::data) fn is_mmdb(bytes: &[u8]) -> bool {
    let tail = bytes.get(bytes.len().saturating_sub(MARKER_WITHIN as usize)..).unwrap_or_default();
    tail.windows(MARKER.len()).any(|window| window == MARKER)
}

/// What is wrong with a file of this form.
#[derive(Debug, thiserror::Error)]
pub(in crate::control::data) enum MmdbFault {
    #[error("is not a sound mmdb file")]
    Unsound(#[source] MaxMindDbError),
    #[error("is for an IP version that is neither 4 nor 6")]
    IpVersion,
    #[error("has records of {0} bits; 24, 28 or 32 are known")]
    RecordSize(u16),
    #[error("is shorter than its own search tree; fetch it again")]
    Short,
    #[error("has a tree deeper than an address is long")]
    Deep,
    #[error("has a tree that meets itself")]
    Circle,
    #[error("has a tree that is cut short")]
    Cut,
    #[error("{at}: a record cannot be read")]
    Record {
        at: IpAddr,
        #[source]
        why: MaxMindDbError,
    },
    #[error("{0}: a record is missing")]
    Missing(IpAddr),
    #[error("a record's AS number is none")]
    AsNumber,
    #[error("has a network that is none")]
    Network(#[source] ipnet::PrefixLenError),
    #[error(transparent)]
    Ranges(#[from] RangeFault),
}

/// A table and what its metadata says.
#[derive(Debug)]
pub(in crate::control::data) struct Read<V> {
    pub(in crate::control::data) ranges: Ranges<V>,
    /// Networks that hold a record.
    pub(in crate::control::data) rows: u64,
    pub(in crate::control::data) as_of: Option<Timestamp>,
    /// Under which licence its publisher gives it, where the type of the file tells.
    pub(in crate::control::data) licence: Option<&'static str>,
}

/// As the publishers of these types say; of any other nobody knows.
fn licence(database_type: &str) -> Option<&'static str> {
    match database_type {
        lite if lite.starts_with("GeoLite2") => Some("GeoLite End User License Agreement: MaxMind"),
        paid if paid.starts_with("GeoIP") => Some("commercial: MaxMind"),
        free if free.starts_with("DBIP") && free.contains("Lite") => Some("CC BY 4.0: DB-IP"),
        _ => None,
    }
}

/// Reads countries: `country.iso_code`, `country_code` or a two-letter `country`, in that order, or
/// where it is asked for `registered_country.iso_code` and nothing else; one is never taken for the
/// other. `traits.is_anycast` is an answer of its own.
pub(in crate::control::data) fn countries(
    bytes: &[u8],
    field: CountryField,
) -> Result<Read<Located>, MmdbFault> {
    read(bytes, |record: &Record<'_>| {
        if record.traits.as_ref().is_some_and(|traits| traits.is_anycast) {
            return Ok(Some(Located::Anycast));
        }
        let code = match (field, &record.country, record.country_code) {
            (CountryField::Registered, ..) => match &record.registered_country {
                Some(Place::Nested(code)) => code.as_deref(),
                Some(Place::Text(_)) | None => None,
            },
            (CountryField::Country, Some(Place::Nested(code)), _) => code.as_deref(),
            (CountryField::Country, _, Some(code)) => Some(code),
            (CountryField::Country, Some(Place::Text(text)), None) if text.len() == 2 => {
                Some(text.as_str())
            }
            (CountryField::Country, Some(Place::Text(_)) | None, None) => None,
        };
        Ok(code.and_then(Country::from_code).map(Located::Country))
    })
}

/// Reads AS numbers: `autonomous_system_number`, the same in `traits`, or `asn` as `AS15169`.
pub(in crate::control::data) fn as_numbers(bytes: &[u8]) -> Result<Read<u32>, MmdbFault> {
    read(bytes, |record: &Record<'_>| {
        let nested = record.traits.as_ref().and_then(|traits| traits.autonomous_system_number);
        let number = record.autonomous_system_number.or(nested);
        let number = match (number, record.asn) {
            (None, Some(text)) => {
                let digits = text.strip_prefix("AS").unwrap_or(text);
                Some(digits).filter(|d| !d.is_empty()).map(str::parse).transpose()
            }
            (number, _) => Ok(number),
        };
        number.map(|n| n.filter(|&n| n != 0)).map_err(|_| MmdbFault::AsNumber)
    })
}

#[derive(Deserialize)]
struct Record<'a> {
    country: Option<Place>,
    registered_country: Option<Place>,
    #[serde(borrow)]
    country_code: Option<&'a str>,
    traits: Option<Traits>,
    autonomous_system_number: Option<u32>,
    asn: Option<&'a str>,
}

#[derive(Deserialize)]
struct Traits {
    #[serde(default)]
    is_anycast: bool,
    autonomous_system_number: Option<u32>,
}

/// `country`, which is a map in MaxMind's files and a text in IPinfo's.
enum Place {
    Nested(Option<String>),
    Text(String),
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PlaceVisitor;
        impl<'de> Visitor<'de> for PlaceVisitor {
            type Value = Place;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map with iso_code, or a text")
            }
            fn visit_str<E>(self, text: &str) -> Result<Place, E> {
                Ok(Place::Text(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Place, A::Error> {
                let mut code = None;
                while let Some(key) = map.next_key::<&str>()? {
                    if key == "iso_code" {
                        code = Some(map.next_value::<String>()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Place::Nested(code))
            }
        }
        deserializer.deserialize_any(PlaceVisitor)
    }
}

fn read<V: Copy + PartialEq>(
    bytes: &[u8],
    value: impl Fn(&Record<'_>) -> Result<Option<V>, MmdbFault>,
) -> Result<Read<V>, MmdbFault> {
    let reader = Reader::from_source(bytes).map_err(MmdbFault::Unsound)?;
    let tree = Tree::of(bytes, &reader)?;
    let mut builder = Builder::default();
    let mut known: HashMap<u32, Option<V>> = HashMap::new();
    tree.walk(|net, record| {
        let value = match known.entry(record) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let at = net.addr();
                let found = reader.lookup(at).and_then(|found| found.decode::<Record<'_>>());
                let record = found.map_err(|why| MmdbFault::Record { at, why })?;
                let record = record.ok_or(MmdbFault::Missing(at))?;
                *new.insert(value(&record)?)
            }
        };
        let mut push = |first, last| {
            let row = builder.rows() as u64 + 1;
            builder.push(row, first, last, value).map_err(MmdbFault::from)
        };
        match (net.addr(), net.broadcast()) {
            // In a tree of IPv6, ::/96 holds the IPv4 addresses.
            (IpAddr::V6(first), IpAddr::V6(last)) if first.is_unspecified() => {
                let beyond = last.to_bits() > u128::from(u32::MAX);
                push(
                    low(first),
                    if beyond { low(Ipv6Addr::from_bits(u128::MAX)) } else { low(last) },
                )?;
                if beyond { push(net.addr(), net.broadcast()) } else { Ok(()) }
            }
            (IpAddr::V6(first), IpAddr::V6(last)) if last.to_bits() <= u128::from(u32::MAX) => {
                push(low(first), low(last))
            }
            (first, last) => push(first, last),
        }
    })?;
    let rows = builder.rows() as u64;
    let as_of = i64::try_from(reader.metadata().build_epoch).ok();
    let as_of = as_of.filter(|&s| s > 0).and_then(|second| Timestamp::from_second(second).ok());
    let ranges = builder.finish()?;
    let licence = licence(&reader.metadata().database_type);
    Ok(Read { ranges, rows, as_of, licence })
}

/// The low 32 bits, as an address.
const fn low(address: Ipv6Addr) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() as u32))
}

/// The search tree: `nodes` pairs of records of `size` bits. A record below `nodes` is a node,
/// `nodes` itself is "no data", and what is above points at a record of data.
struct Tree<'a> {
    bytes: &'a [u8],
    nodes: u32,
    size: u16,
    six: bool,
}

impl<'a> Tree<'a> {
    fn of(bytes: &'a [u8], reader: &Reader<&[u8]>) -> Result<Self, MmdbFault> {
        let about = reader.metadata();
        let six = match about.ip_version {
            4 => false,
            6 => true,
            _ => return Err(MmdbFault::IpVersion),
        };
        if !matches!(about.record_size, 24 | 28 | 32) {
            return Err(MmdbFault::RecordSize(about.record_size));
        }
        let length = u64::from(about.node_count) * u64::from(about.record_size) / 4;
        let tree = usize::try_from(length).ok().and_then(|length| bytes.get(..length));
        let bytes = tree.ok_or(MmdbFault::Short)?;
        Ok(Self { bytes, nodes: about.node_count, size: about.record_size, six })
    }

    /// The left (`false`) or right record of a node.
    fn record(&self, node: u32, right: bool) -> Option<u32> {
        let width = usize::from(self.size) / 4;
        let at = usize::try_from(node).ok()?.checked_mul(width)?;
        let pair = self.bytes.get(at..at.checked_add(width)?)?;
        // In 28 bits, the byte in the middle holds the top four bits of both.
        let (half, top) = match (self.size, right) {
            (28, false) => (0..3, pair.get(3)? >> 4),
            (28, true) => (4..7, pair.get(3)? & 0x0f),
            (_, false) => (0..width / 2, 0),
            (_, true) => (width / 2..width, 0),
        };
        let half = pair.get(half)?;
        let record = half.iter().fold(u32::from(top), |sum, &byte| sum << 8 | u32::from(byte));
        Some(record)
    }

    /// Calls `visit` with each network that has a record. The aliases of the IPv4 tree
    /// (`::ffff:0:0/96`, `2001::/32`, `2002::/16`) are passed over.
    ///
    /// # Errors
    /// `visit`'s, or a node that is reached twice or lies deeper than an address is long.
    fn walk(
        &self,
        mut visit: impl FnMut(IpNet, u32) -> Result<(), MmdbFault>,
    ) -> Result<(), MmdbFault> {
        let bits = if self.six { 128 } else { 32 };
        let v4_root = if self.six { self.v4_root() } else { None };
        let mut entered = vec![false; self.nodes as usize];
        let mut ahead = Vec::new();
        if self.nodes > 0 {
            ahead.push((0_u32, 0_u128, 0_u8));
        }
        while let Some((node, start, depth)) = ahead.pop() {
            if depth >= bits {
                return Err(MmdbFault::Deep);
            }
            match entered.get_mut(node as usize) {
                Some(entered) if !*entered => *entered = true,
                _ => return Err(MmdbFault::Circle),
            }
            for right in [true, false] {
                let record = self.record(node, right).ok_or(MmdbFault::Cut)?;
                let start = start | u128::from(right) << (bits - 1 - depth);
                let alias = Some(record) == v4_root && (start != 0 || depth + 1 != 96);
                if record == self.nodes || alias {
                    continue;
                }
                if record < self.nodes {
                    ahead.push((record, start, depth + 1));
                    continue;
                }
                let address = if self.six {
                    IpAddr::V6(Ipv6Addr::from_bits(start))
                } else {
                    low(Ipv6Addr::from_bits(start))
                };
                let net = IpNet::new(address, depth + 1).map_err(MmdbFault::Network)?;
                visit(net, record)?;
            }
        }
        Ok(())
    }

    /// The node at `::/96`, if there is one.
    fn v4_root(&self) -> Option<u32> {
        let mut node = 0;
        for _ in 0..96 {
            node = self.record(node, false).filter(|&record| record < self.nodes)?;
        }
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of 24-bit records over IPv4 with these nodes, one record of data (`{}`) and the
    /// metadata that a reader asks for.
    fn file(nodes: &[(u32, u32)]) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::new();
        for &(left, right) in nodes {
            bytes.extend(&left.to_be_bytes()[1..]);
            bytes.extend(&right.to_be_bytes()[1..]);
        }
        bytes.extend([0; 16]);
        bytes.push(0xe0);
        bytes.extend(MARKER);
        let text = |bytes: &mut Vec<u8>, text: &str| {
            bytes.push(0x40 | text.len() as u8);
            bytes.extend(text.as_bytes());
        };
        bytes.push(0xe9);
        let numbers = [
            ("binary_format_major_version", 2),
            ("binary_format_minor_version", 0),
            ("ip_version", 4),
            ("node_count", nodes.len() as u8),
            ("record_size", 24),
        ];
        for (key, number) in numbers {
            if key.len() > 28 {
                bytes.extend([0x5d, key.len() as u8 - 29]);
                bytes.extend(key.as_bytes());
            } else {
                text(&mut bytes, key);
            }
            bytes.extend(if key == "node_count" { [0xc1, number] } else { [0xa1, number] });
        }
        text(&mut bytes, "build_epoch");
        bytes.extend([0x01, 0x02, 9]);
        text(&mut bytes, "database_type");
        text(&mut bytes, "test");
        text(&mut bytes, "description");
        bytes.push(0xe0);
        text(&mut bytes, "languages");
        bytes.extend([0x00, 0x04]);
        bytes
    }

    /// The reader's own iterator would visit 2^32 networks here (2^128 in a tree of IPv6).
    #[test]
    fn a_tree_that_meets_itself_is_refused_at_once() {
        let refused = countries(&file(&[(0, 0)]), CountryField::Country).unwrap_err();
        assert!(matches!(refused, MmdbFault::Circle), "{refused}");
        let refused =
            countries(&file(&[(1, 1), (2, 2), (3, 3), (4, 4)]), CountryField::Country).unwrap_err();
        assert!(matches!(refused, MmdbFault::Circle), "{refused}");
    }

    #[test]
    fn each_record_width_gives_both_halves() {
        let tree = |bytes, size| Tree { bytes, nodes: 9, size, six: false };
        let pair = |t: Tree<'_>| (t.record(0, false), t.record(0, true), t.record(1, true));
        assert_eq!(pair(tree(&[1, 2, 3, 4, 5, 6], 24)), (Some(0x01_0203), Some(0x04_0506), None));
        let narrow = pair(tree(&[1, 2, 3, 0xab, 5, 6, 7], 28));
        assert_eq!(narrow, (Some(0xa01_0203), Some(0xb05_0607), None));
        let wide = pair(tree(&[1, 2, 3, 4, 5, 6, 7, 8], 32));
        assert_eq!(wide, (Some(0x0102_0304), Some(0x0506_0708), None));
    }

    #[test]
    fn a_file_without_the_marker_is_another_form() {
        assert!(is_mmdb(&file(&[(1, 1)])));
        assert!(!is_mmdb(b"1.0.0.0,1.0.0.255,AU") && !is_mmdb(&[]));
    }
}
