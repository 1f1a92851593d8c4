//! The compact form of a table, `.sgt`: what is embedded, and what `schengate data build` writes.
//!
//! ```text
//!  0   4  magic "SGT1"
//!  4  32  SHA-256 of everything that follows
//! 36   1  kind: 1 country, 2 AS, 3 provider
//! 37   8  date of the content, seconds since 1970, little endian; the least number: unknown
//! 45   8  rows of the table
//! 53   4  length of the payload before deflate
//! 57      name, source, licence: each 2 bytes of length and UTF-8
//!         payload, one raw deflate stream to the end of the file
//! ```
//! The payload is a table of values and two sections, IPv4 then IPv6. A section is a count (LEB128)
//! and columns of that many entries, since like bytes side by side are what deflate is good at:
//! the trailing zero bits of each start's distance from the one before, the distance shifted right
//! by that (LEB128), for providers the prefix length, and the index into the table of values in
//! planes of one byte, low plane first. In a table of ranges each start runs to the next one, and
//! index 0 is "no answer". Both families keep every bit.
//!
//! The digest is compared before anything is unpacked, and nothing is allocated before the bytes
//! that it is for were seen. Reading the embedded tables, digest included, takes 42 ms for the three
//! in use and 53 ms with the registrants (release, one core of an AMD EPYC; the first time 58 and
//! 71 ms): country 30, registrant 11, AS 6, cloud 6.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use ipnet::IpNet;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::magic::SGT_MAGIC as MAGIC;
use crate::control::data::model::{Located, ProviderRow, Ranges};
use crate::policy::Country;

const DIGEST_AT: usize = 4;
const HEADER_AT: usize = 36;

/// The largest payload that is unpacked; all AS numbers of the world take 6 MB.
const MAX_PAYLOAD: u32 = 128 << 20;

/// What is wrong with a table of this form, or with one that does not fit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SgtFault {
    /// Other bytes, or too few of them.
    #[error("is not a schengate table, or was cut short")]
    NoTable,
    /// Some bytes are others than were written.
    #[error("is damaged: its digest differs; fetch or build it again")]
    Damaged,
    /// Written by a later version.
    #[error("is of a kind that this version does not know")]
    UnknownKind,
    /// The digest held, so the writer wrote this: it is no accident.
    #[error("holds a table that makes no sense, although its digest is right")]
    Broken,
    /// The payload is larger than any that is read.
    #[error("the table is too large for this form")]
    TooLarge,
    /// More values than an index of three bytes names.
    #[error("the table has too many values for this form")]
    TooManyValues,
    /// More bytes than two bytes of length count.
    #[error("a text is too long for this form")]
    LongText,
}

/// What a table says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Short name, as in [`crate::control::data::SourceInfo::name`].
    pub name: String,
    /// Date of the content, where the source tells it.
    pub as_of: Option<Timestamp>,
    /// Rows of the table.
    pub rows: u64,
    /// The packages it was made from.
    pub source: String,
    /// Their licences.
    pub licence: String,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Where an address is.
    Country(Ranges<Located>),
    /// AS number of each range.
    Asn(Ranges<u32>),
    /// What providers publish. Sorted as [`super::provider::provider_order`] sorts.
    Provider(Vec<ProviderRow>),
}

impl Body {
    /// The name of the kind, for messages.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Country(_) => "country",
            Self::Asn(_) => "AS",
            Self::Provider(_) => "provider",
        }
    }
}

/// Writes a table. The same table gives the same bytes.
///
/// # Errors
/// What is too long for its field.
pub fn write(header: &Header, body: &Body) -> Result<Vec<u8>, SgtFault> {
    let mut payload = Vec::new();
    let kind = match body {
        Body::Country(ranges) => {
            let code = |value: Located| match value {
                Located::Country(country) => country.code(),
                Located::Anycast => ANYCAST,
            };
            write_ranges(&mut payload, ranges, &code, |out, code| out.extend(code.as_bytes()))?;
            1
        }
        Body::Asn(ranges) => {
            write_ranges(&mut payload, ranges, &|asn| asn, |out, asn| {
                out.extend(asn.to_le_bytes())
            })?;
            2
        }
        Body::Provider(rows) => {
            write_rows(&mut payload, rows)?;
            3
        }
    };
    let length = u32::try_from(payload.len()).ok().filter(|&len| len <= MAX_PAYLOAD);
    let length = length.ok_or(SgtFault::TooLarge)?;
    let mut rest = vec![kind];
    rest.extend(header.as_of.map_or(NO_DATE, Timestamp::as_second).to_le_bytes());
    rest.extend(header.rows.to_le_bytes());
    rest.extend(length.to_le_bytes());
    for text in [&header.name, &header.source, &header.licence] {
        text_16(&mut rest, text)?;
    }
    let mut deflate = DeflateEncoder::new(rest, Compression::best());
    // Into memory: nothing of it can fail.
    let deflated = deflate.write_all(&payload).and_then(|()| deflate.finish());
    let rest = deflated.map_err(|_| SgtFault::TooLarge)?;
    let mut table = MAGIC.to_vec();
    table.extend(Sha256::digest(&rest));
    table.extend(rest);
    Ok(table)
}

/// Reads a table.
///
/// # Errors
/// What is wrong with it; a table is sound to the last bit or refused.
pub(in crate::control::data) fn read(table: &[u8]) -> Result<(Header, Body), SgtFault> {
    let digest = table.get(DIGEST_AT..HEADER_AT).filter(|_| table.starts_with(MAGIC));
    let digest = digest.ok_or(SgtFault::NoTable)?;
    let rest = table.get(HEADER_AT..).unwrap_or_default();
    if Sha256::digest(rest).as_slice() != digest {
        return Err(SgtFault::Damaged);
    }
    let mut bytes = Bytes(rest);
    let (header, kind, length) = read_header(&mut bytes)?;
    let payload = inflate(bytes.0, length)?;
    let mut bytes = Bytes(&payload);
    let body = match kind {
        1 => Body::Country(read_ranges(&mut bytes, |bytes| {
            let code = bytes.array::<2>()?;
            match str::from_utf8(&code) {
                Ok(ANYCAST) => Ok(Located::Anycast),
                code => code.ok().and_then(Country::from_code).map(Located::Country).ok_or(BROKEN),
            }
        })?),
        2 => Body::Asn(read_ranges(&mut bytes, |bytes| bytes.array().map(u32::from_le_bytes))?),
        3 => Body::Provider(read_rows(&mut bytes)?),
        _ => return Err(SgtFault::UnknownKind),
    };
    if bytes.0.is_empty() { Ok((header, body)) } else { Err(BROKEN) }
}

/// The date of a table that has none.
const NO_DATE: i64 = i64::MIN;

/// The code that stands for "announced from many places".
const ANYCAST: &str = "**";

const BROKEN: SgtFault = SgtFault::Broken;

fn read_header(bytes: &mut Bytes<'_>) -> Result<(Header, u8, u32), SgtFault> {
    let [kind] = bytes.array()?;
    let as_of = match i64::from_le_bytes(bytes.array()?) {
        NO_DATE => None,
        second => Some(Timestamp::from_second(second).map_err(|_| BROKEN)?),
    };
    let rows = u64::from_le_bytes(bytes.array()?);
    let length = u32::from_le_bytes(bytes.array()?);
    let [name, source, licence] = [bytes.text_16()?, bytes.text_16()?, bytes.text_16()?];
    Ok((Header { name, as_of, rows, source, licence }, kind, length))
}

fn inflate(deflated: &[u8], length: u32) -> Result<Vec<u8>, SgtFault> {
    if length > MAX_PAYLOAD {
        return Err(BROKEN);
    }
    let mut payload = Vec::new();
    let mut inflate = DeflateDecoder::new(deflated);
    inflate.by_ref().take(u64::from(length) + 1).read_to_end(&mut payload).map_err(|_| BROKEN)?;
    let whole = payload.len() == length as usize && inflate.total_in() == deflated.len() as u64;
    if whole { Ok(payload) } else { Err(BROKEN) }
}

fn write_ranges<V: Copy, K: Copy + Ord>(
    out: &mut Vec<u8>,
    ranges: &Ranges<V>,
    key: &impl Fn(V) -> K,
    put: impl Fn(&mut Vec<u8>, K),
) -> Result<(), SgtFault> {
    let of_v4 = ranges.v4.iter().map(|&(_, _, value)| key(value));
    let mut values: Vec<K> = of_v4.chain(ranges.v6.iter().map(|r| key(r.2))).collect();
    values.sort_unstable();
    values.dedup();
    leb128(out, values.len() as u128);
    values.iter().for_each(|&value| put(out, value));
    // The values are the ranges' own: each is found.
    let index = |value: V| values.binary_search(&key(value)).map_or(0, |i| i + 1);
    let v4 = ranges.v4.iter().map(|r| (r.0.into(), r.1.into(), index(r.2)));
    write_starts(out, v4, u32::MAX.into(), values.len())?;
    let v6 = ranges.v6.iter().map(|r| (r.0, r.1, index(r.2)));
    write_starts(out, v6, u128::MAX, values.len())
}

fn write_starts(
    out: &mut Vec<u8>,
    ranges: impl Iterator<Item = (u128, u128, usize)>,
    end: u128,
    values: usize,
) -> Result<(), SgtFault> {
    let mut starts: Vec<(u128, usize)> = Vec::new();
    let mut free = Some(0);
    for (first, last, index) in ranges {
        if let Some(gap) = free.filter(|&gap| gap < first) {
            starts.push((gap, 0));
        }
        starts.push((first, index));
        free = last.checked_add(1).filter(|&next| next <= end);
    }
    starts.extend(free.map(|gap| (gap, 0)));
    leb128(out, starts.len() as u128);
    write_distances(out, starts.iter().map(|s| s.0));
    write_planes(out, values, starts.iter().map(|s| s.1))
}

fn write_distances(out: &mut Vec<u8>, starts: impl Iterator<Item = u128>) {
    let mut mantissas = Vec::new();
    let mut before = 0;
    for start in starts {
        let distance = start - before;
        before = start;
        let zeros = if distance == 0 { 0 } else { distance.trailing_zeros() };
        // At most 127.
        out.push(zeros as u8);
        leb128(&mut mantissas, distance >> zeros);
    }
    out.extend(mantissas);
}

/// Bytes that an index from 0 to `values` takes.
const fn planes(values: usize) -> Option<u32> {
    match values {
        0..=0xff => Some(1),
        0x100..=0xffff => Some(2),
        0x1_0000..=0xff_ffff => Some(3),
        _ => None,
    }
}

fn write_planes(
    out: &mut Vec<u8>,
    values: usize,
    indexes: impl Iterator<Item = usize> + Clone,
) -> Result<(), SgtFault> {
    for plane in 0..planes(values).ok_or(SgtFault::TooManyValues)? {
        out.extend(indexes.clone().map(|index| (index >> (8 * plane)) as u8));
    }
    Ok(())
}

fn read_ranges<V: Copy>(
    bytes: &mut Bytes<'_>,
    value: impl Fn(&mut Bytes<'_>) -> Result<V, SgtFault>,
) -> Result<Ranges<V>, SgtFault> {
    let count = bytes.count()?;
    let values = (0..count).map(|_| value(bytes)).collect::<Result<Vec<V>, _>>()?;
    let mut ranges = Ranges::default();
    read_starts::<u32, _>(bytes, u32::MAX.into(), &values, |first, last, value| {
        // Both are at most the end that was given.
        ranges.v4.push((first as u32, last as u32, value));
    })?;
    read_starts::<u128, _>(bytes, u128::MAX, &values, |first, last, value| {
        ranges.v6.push((first, last, value));
    })?;
    Ok(ranges)
}

fn read_starts<A: Copy + Into<u128> + TryFrom<u128>, V: Copy>(
    bytes: &mut Bytes<'_>,
    end: u128,
    values: &[V],
    mut range: impl FnMut(u128, u128, V),
) -> Result<(), SgtFault> {
    let count = bytes.count()?;
    let starts: Vec<A> = read_distances(bytes, count, end)?;
    let indexes = read_planes(bytes, count, values.len())?;
    let starts = starts.iter().map(|&start| -> u128 { start.into() });
    let lasts = starts.clone().skip(1).map(|next| next.checked_sub(1)).chain([Some(end)]);
    for ((first, last), index) in starts.zip(lasts).zip(indexes) {
        let last = last.filter(|&last| first <= last).ok_or(BROKEN)?;
        match index.checked_sub(1) {
            Some(index) => range(first, last, *values.get(index).ok_or(BROKEN)?),
            None => continue,
        }
    }
    Ok(())
}

fn read_distances<A: TryFrom<u128>>(
    bytes: &mut Bytes<'_>,
    count: usize,
    end: u128,
) -> Result<Vec<A>, SgtFault> {
    let zeros = bytes.take(count)?;
    let mut start = 0_u128;
    zeros
        .iter()
        .map(|&zeros| {
            let mantissa = bytes.leb128()?;
            if zeros > 127 || mantissa.leading_zeros() < u32::from(zeros) {
                return Err(BROKEN);
            }
            let next = start.checked_add(mantissa << zeros).filter(|&next| next <= end);
            start = next.ok_or(BROKEN)?;
            A::try_from(start).map_err(|_| BROKEN)
        })
        .collect()
}

fn read_planes<'a>(
    bytes: &mut Bytes<'a>,
    count: usize,
    values: usize,
) -> Result<impl Iterator<Item = usize> + use<'a>, SgtFault> {
    let width = planes(values).ok_or(BROKEN)?;
    let low = bytes.take(count)?;
    let middle = if width > 1 { bytes.take(count)? } else { &[] };
    let high = if width > 2 { bytes.take(count)? } else { &[] };
    let byte = |plane: &[u8], i: usize| usize::from(plane.get(i).copied().unwrap_or(0));
    Ok((0..count).map(move |i| byte(low, i) | byte(middle, i) << 8 | byte(high, i) << 16))
}

/// A provider's value: provider, region, anycast, country.
type RowValue<'a> = (&'a str, &'a str, bool, Option<Country>);

fn row_value(row: &ProviderRow) -> RowValue<'_> {
    (&row.provider, &row.region, row.anycast, row.country)
}

fn write_rows(out: &mut Vec<u8>, rows: &[ProviderRow]) -> Result<(), SgtFault> {
    let mut values: Vec<RowValue<'_>> = rows.iter().map(row_value).collect();
    values.sort_unstable();
    values.dedup();
    leb128(out, values.len() as u128);
    for &(provider, region, anycast, country) in &values {
        text_16(out, provider)?;
        text_16(out, region)?;
        out.push(u8::from(anycast));
        out.extend(country.map_or(*b"--", |c| {
            let mut code = [0; 2];
            code.iter_mut().zip(c.code().bytes()).for_each(|(to, from)| *to = from);
            code
        }));
    }
    let split = rows.partition_point(|row| row.net.addr().is_ipv4());
    let (v4, v6) = rows.split_at(split);
    for half in [v4, v6] {
        leb128(out, half.len() as u128);
        write_distances(out, half.iter().map(|row| number(row.net.addr())));
        out.extend(half.iter().map(|row| row.net.prefix_len()));
        let index = |row| values.binary_search(&row_value(row)).map_or(0, |i| i + 1);
        write_planes(out, values.len(), half.iter().map(index))?;
    }
    Ok(())
}

fn read_rows(bytes: &mut Bytes<'_>) -> Result<Vec<ProviderRow>, SgtFault> {
    let count = bytes.count()?;
    let values = (0..count).map(|_| read_row_value(bytes)).collect::<Result<Vec<_>, _>>()?;
    let mut rows = Vec::new();
    for end in [u128::from(u32::MAX), u128::MAX] {
        let count = bytes.count()?;
        let starts: Vec<u128> = read_distances(bytes, count, end)?;
        let lengths = bytes.take(count)?;
        let indexes = read_planes(bytes, count, values.len())?;
        for ((&start, &length), index) in starts.iter().zip(lengths).zip(indexes) {
            let address = if end == u128::MAX {
                IpAddr::V6(Ipv6Addr::from_bits(start))
            } else {
                IpAddr::V4(Ipv4Addr::from_bits(start as u32))
            };
            let net = IpNet::new(address, length).ok().filter(|net| net.trunc() == *net);
            let value = index.checked_sub(1).and_then(|index| values.get(index));
            let (net, value) = net.zip(value).ok_or(BROKEN)?;
            rows.push(ProviderRow { net, ..value.clone() });
        }
    }
    Ok(rows)
}

fn read_row_value(bytes: &mut Bytes<'_>) -> Result<ProviderRow, SgtFault> {
    let (provider, region) = (bytes.text_16()?, bytes.text_16()?);
    let [anycast] = bytes.array()?;
    let code = bytes.array::<2>()?;
    let country = match &code {
        b"--" => None,
        code => Some(str::from_utf8(code).ok().and_then(Country::from_code).ok_or(BROKEN)?),
    };
    let anycast = match anycast {
        0 => false,
        1 => true,
        _ => return Err(BROKEN),
    };
    Ok(ProviderRow { net: IpNet::default(), provider, region, anycast, country })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn text_16(out: &mut Vec<u8>, text: &str) -> Result<(), SgtFault> {
    let length = u16::try_from(text.len()).map_err(|_| SgtFault::LongText)?;
    out.extend(length.to_le_bytes());
    out.extend(text.as_bytes());
    Ok(())
}

fn leb128(out: &mut Vec<u8>, mut number: u128) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// What is left to read; each call takes from the front or says that the table is broken.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], SgtFault> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(BROKEN)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SgtFault> {
        self.take(N)?.try_into().map_err(|_| BROKEN)
    }

    fn text_16(&mut self) -> Result<String, SgtFault> {
        let length = u16::from_le_bytes(self.array()?);
        let text = self.take(length.into())?;
        str::from_utf8(text).map(str::to_owned).map_err(|_| BROKEN)
    }

    fn leb128(&mut self) -> Result<u128, SgtFault> {
        let mut number = 0_u128;
        for shift in (0..128).step_by(7) {
            let [byte] = self.array()?;
            let part = u128::from(byte & 0x7f);
            if part.leading_zeros() < shift {
                return Err(BROKEN);
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(BROKEN)
    }

    /// A count of entries, each of which takes at least a byte of what is left.
    fn count(&mut self) -> Result<usize, SgtFault> {
        let count = self.leb128()?;
        usize::try_from(count).ok().filter(|&count| count <= self.0.len()).ok_or(BROKEN)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        let as_of = Timestamp::from_second(1_781_654_400).ok();
        let text = |text: &str| text.to_owned();
        Header {
            name: text("test:table"),
            as_of,
            rows: 3,
            source: text("a package"),
            licence: text("CC0-1.0"),
        }
    }

    fn small() -> Vec<u8> {
        let country = |code| Located::Country(Country::from_code(code).unwrap());
        let ranges = Ranges {
            v4: vec![(1, 9, country("FR")), (u32::MAX - 1, u32::MAX, Located::Anycast)],
            v6: vec![(0, 0, country("DE")), (1 << 77, u128::MAX, country("FR"))],
        };
        write(&header(), &Body::Country(ranges)).unwrap()
    }

    fn reseal(rest: &[u8]) -> Vec<u8> {
        [MAGIC.as_slice(), &Sha256::digest(rest), rest].concat()
    }

    #[test]
    fn every_truncation_and_every_bit_flip_is_refused() {
        let table = small();
        assert!(read(&table).is_ok());
        for end in 0..table.len() {
            assert!(read(&table[..end]).is_err(), "cut at {end}");
        }
        for bit in 0..table.len() * 8 {
            let mut table = table.clone();
            table[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&table).is_err(), "bit {bit}");
        }
        assert!(read(&[table, vec![0]].concat()).is_err());
    }

    /// The digest keeps accidents out, not intent: a table with a right digest is still bounded.
    #[test]
    fn a_bit_flip_under_a_right_digest_is_refused_or_gives_sorted_ranges() {
        let table = small();
        let (mut refused, mut read_well) = (0, 0);
        for bit in 0..(table.len() - HEADER_AT) * 8 {
            let mut rest = table[HEADER_AT..].to_vec();
            rest[bit / 8] ^= 1 << (bit % 8);
            match read(&reseal(&rest)) {
                Ok((_, Body::Country(ranges))) => {
                    assert!(ranges.v4.iter().all(|r| r.0 <= r.1));
                    assert!(ranges.v6.is_sorted_by(|a, b| a.1 < b.0));
                    read_well += 1;
                }
                Ok(_) | Err(_) => refused += 1,
            }
        }
        assert!(refused > 0 && read_well > 0, "{refused} {read_well}");
    }

    #[test]
    fn a_count_beyond_the_bytes_allocates_nothing() {
        let mut rest = small()[HEADER_AT..].to_vec();
        let text = 21 + header().name.len() + header().source.len() + header().licence.len() + 6;
        rest.truncate(text);
        let payload = [vec![0xff; 8], vec![0x7f]].concat();
        rest[17..21].copy_from_slice(&9_u32.to_le_bytes());
        let mut deflate = DeflateEncoder::new(rest, Compression::best());
        deflate.write_all(&payload).unwrap();
        assert_eq!(read(&reseal(&deflate.finish().unwrap())), Err(BROKEN));
    }

    fn ranges_of<V: Strategy<Value = T>, T: Copy + std::fmt::Debug + PartialEq>(
        value: V,
    ) -> impl Strategy<Value = Ranges<T>> {
        let v4 = proptest::collection::vec((any::<u32>(), value), 0..60);
        v4.prop_map(|points| {
            let mut v4: Vec<(u32, u32, T)> = Vec::new();
            let mut points = points;
            points.sort_unstable_by_key(|p| p.0);
            points.dedup_by_key(|p| p.0);
            for pair in points.chunks_exact(2) {
                v4.push((pair[0].0, pair[1].0, pair[0].1));
            }
            let spread = |at: u32| u128::from(at).pow(4);
            let v6 = v4.iter().map(|r| (spread(r.0), spread(r.1), r.2)).collect();
            Ranges { v4, v6 }
        })
    }

    proptest! {
        #[test]
        fn country_tables_come_back_equal(
            ranges in ranges_of((0..Country::COUNT + 1).prop_map(|i| {
                Country::from_index(i).map_or(Located::Anycast, Located::Country)
            })),
        ) {
            let body = Body::Country(ranges);
            prop_assert_eq!(read(&write(&header(), &body).unwrap()).unwrap(), (header(), body));
        }

        #[test]
        fn as_tables_come_back_equal(ranges in ranges_of(any::<u32>())) {
            let body = Body::Asn(ranges);
            prop_assert_eq!(read(&write(&header(), &body).unwrap()).unwrap(), (header(), body));
        }

        #[test]
        fn provider_tables_come_back_equal(
            drawn in proptest::collection::vec(
                (any::<u128>(), 0..129_u8, any::<bool>(), 0..400_u16, 0..260_usize), 0..600),
        ) {
            let mut rows: Vec<ProviderRow> = drawn
                .into_iter()
                .map(|(bits, length, six, region, country)| {
                    let net = if six {
                        IpNet::new(IpAddr::V6(bits.into()), length)
                    } else {
                        IpNet::new(IpAddr::V4((bits as u32).into()), length % 33)
                    };
                    ProviderRow {
                        net: net.unwrap().trunc(),
                        provider: "aws".to_owned(),
                        region: format!("region-{region}"),
                        anycast: region % 3 == 0,
                        country: Country::from_index(country),
                    }
                })
                .collect();
            rows.sort_unstable_by(crate::control::data::formats::provider::provider_order);
            let body = Body::Provider(rows);
            prop_assert_eq!(read(&write(&header(), &body).unwrap()).unwrap(), (header(), body));
        }
    }
}
