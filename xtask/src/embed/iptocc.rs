//! The two lookup tables of the crate `iptocc` 1.4, read back into ranges. Its `format.rs` and
//! `lib.rs` are the description; both tables are little endian.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use schengate::control::data::formats::ranges::Builder;
use schengate::control::data::{Located, Ranges};
use schengate::policy::Country;

const BUCKETS: usize = 1 << 16;
const UNASSIGNED: u8 = 0xff;
const CUT: &str = "is not of the form of iptocc 1.4, which this reads";

/// The ranges of `v4.bin` and `v6.bin`.
pub(super) fn ranges(v4: &[u8], v6: &[u8]) -> Result<Ranges<Located>, String> {
    let mut builder = Builder::default();
    read_v4(v4, &mut builder).ok_or(CUT)?;
    read_v6(v6, &mut builder).ok_or(CUT)?;
    builder.finish().map_err(|fault| fault.to_string())
}

/// A first level of 65,536 words, one for each /16: top bits 01 one country, 10 nothing, 00 the
/// number of a bucket with a code at its start and transitions at offsets within.
fn read_v4(bytes: &[u8], into: &mut Builder<Located>) -> Option<()> {
    let (dict, after) = counted(bytes, BUCKETS * 4, 2)?;
    let mixed = word(bytes, after)?;
    let base = after + 4;
    let initial = base + (mixed + 1) * 4;
    let count = word(bytes, initial + mixed)?;
    let offsets = initial + mixed + 4;
    let codes = offsets + count * 2;
    for bucket in 0..BUCKETS {
        let first = word(bytes, bucket * 4)?;
        let start = (bucket as u32) << 16;
        let mut put = |from: u32, to: u32, code: u8| {
            let (from, to) = (Ipv4Addr::from_bits(start | from), Ipv4Addr::from_bits(start | to));
            push(into, from.into(), to.into(), dict, code)
        };
        match first >> 30 {
            1 => put(0, 0xffff, first as u8)?,
            2 => {}
            0 => {
                let slot = base + first * 4;
                let mut from = 0;
                let mut code = *bytes.get(initial + first)?;
                for i in word(bytes, slot)?..word(bytes, slot + 4)? {
                    let at = half(bytes, offsets + i * 2)?;
                    if let Some(to) = at.checked_sub(1).filter(|&to| to >= from) {
                        put(from, to, code)?;
                    }
                    (from, code) = (at, *bytes.get(codes + i)?);
                }
                put(from, 0xffff, code)?;
            }
            _ => return None,
        }
    }
    Some(())
}

/// Entries by first 16 bits: an offset and a prefix length, or the number of a range in a side
/// table where the length is 0.
fn read_v6(bytes: &[u8], into: &mut Builder<Located>) -> Option<()> {
    let populated = word(bytes, BUCKETS)?;
    let firsts = BUCKETS + 4;
    let mut at = firsts + (populated + 1) * 4 + populated * 257 * 2;
    for _ in 0..2 {
        let deep = word(bytes, at)?;
        at += 4 + deep * 2 + deep * 257 * 4;
    }
    let (dict, at) = counted(bytes, at, 2)?;
    let (side, at) = counted(bytes, at, 33)?;
    let (primary, _) = counted(bytes, at, 6)?;
    for (top, &index) in bytes.get(..BUCKETS)?.iter().enumerate() {
        if index == UNASSIGNED {
            continue;
        }
        let slot = firsts + usize::from(index) * 4;
        for i in word(bytes, slot)?..word(bytes, slot + 4)? {
            let record = primary.get(i * 6..i * 6 + 6)?;
            let offset = word(record, 0)?;
            let (length, code) = (*record.get(4)?, *record.get(5)?);
            let (first, last, code) = if length == 0 {
                let range = side.get(offset * 33..offset * 33 + 33)?;
                (long(range, 0)?, long(range, 16)?, *range.get(32)?)
            } else {
                let first = (top as u128) << 112 | (offset as u128) << 80;
                (first, first | u128::MAX.checked_shr(length.into()).unwrap_or(0), code)
            };
            let ends = (Ipv6Addr::from_bits(first), Ipv6Addr::from_bits(last));
            push(into, ends.0.into(), ends.1.into(), dict, code)?;
        }
    }
    Some(())
}

fn push(
    into: &mut Builder<Located>,
    first: IpAddr,
    last: IpAddr,
    dict: &[u8],
    code: u8,
) -> Option<()> {
    if code == UNASSIGNED {
        return Some(());
    }
    let at = usize::from(code) * 2;
    let code = str::from_utf8(dict.get(at..at + 2)?).ok()?;
    let country = Country::from_code(code).map(Located::Country);
    let row = into.rows() as u64 + 1;
    into.push(row, first, last, country).ok()
}

/// A count at `at` and that many entries of `width` bytes behind it, and where they end.
fn counted(bytes: &[u8], at: usize, width: usize) -> Option<(&[u8], usize)> {
    let end = word(bytes, at)?.checked_mul(width)?.checked_add(at + 4)?;
    Some((bytes.get(at + 4..end)?, end))
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*word)).ok()
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<2>().map(|half| u16::from_le_bytes(*half).into())
}

fn long(bytes: &[u8], at: usize) -> Option<u128> {
    bytes.get(at..)?.first_chunk::<16>().map(|long| u128::from_le_bytes(*long))
}
