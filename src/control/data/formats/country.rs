//! Country and AS tables that come as text: what the free sources publish, told by content.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use jiff::Timestamp;

use super::file;
use super::ranges::Builder;
use super::text::{self, Separator, as_number, day, fields, lines, prefix};
use crate::control::data::model::{
    BadRow, Cause, DataFault, FileStamp, Located, Ranges, Shown, shown, shown_path,
};
use crate::policy::Country;

/// What is wrong with a table of these forms.
#[derive(Debug, thiserror::Error)]
pub(in crate::control::data) enum CountryFault {
    #[error("holds no row; an empty table answers nothing")]
    Empty,
    #[error("the header names no column with {0}; see config/README.md for the forms")]
    NoColumn(&'static str),
    #[error("has {has} columns, {needs} are needed; is the file whole?")]
    TooFewColumns { has: usize, needs: usize },
    #[error("has {has} columns, its header {names}; is the file whole?")]
    OtherThanHeader { has: usize, names: usize },
    #[error("geoname {0} is not in the file of locations")]
    Geoname(Shown),
    #[error("is not a row of RIR statistics; is the file whole?")]
    NoStatistics,
    #[error("{missing} rows of {kind} are missing; fetch it again")]
    RowsMissing { missing: i64, kind: Shown },
    #[error("{0} addresses do not fit there")]
    Beyond(u32),
    #[error("is not an IPv6 prefix")]
    NoPrefix,
    #[error("{0} is not of the family {1}")]
    OtherFamily(Shown, Shown),
    #[error("{0} is not a number")]
    NoNumber(Shown),
}

/// What is wrong with the file of locations that MaxMind's blocks need.
#[derive(Debug, thiserror::Error)]
pub(in crate::control::data) enum LocationsFault {
    #[error(
        "names countries by geoname: put the one matching ...-Locations-en.csv beside it ({0})"
    )]
    Folder(io::Error),
    #[error("names countries by geoname: put the one matching ...-Locations-en.csv beside it")]
    NotOne,
    #[error(transparent)]
    Unreadable(DataFault),
    #[error("{file}: row {row}: {what}")]
    Row { file: String, row: u64, what: Cause },
    #[error("no geoname_id and country_iso_code")]
    NoColumns,
    #[error("a column is missing; is the file whole?")]
    ColumnMissing,
}

/// A table, its rows and the date in its content.
pub(in crate::control::data) struct Read<V> {
    pub(in crate::control::data) ranges: Ranges<V>,
    pub(in crate::control::data) rows: u64,
    pub(in crate::control::data) as_of: Option<Timestamp>,
    /// The file beside it that it was read with.
    pub(in crate::control::data) beside: Option<FileStamp>,
}

/// Reads a country table: CSV or TSV of ranges (ip-location-db, DB-IP, iptoasn, IP2Location, Tor),
/// CSV of prefixes with a header (IPinfo, MaxMind), or RIR statistics.
pub(in crate::control::data) fn countries(
    bytes: &[u8],
    path: &Path,
) -> Result<Read<Located>, BadRow> {
    let (row, first) = first_line(bytes)?;
    if first.contains(&b'|') {
        return statistics(bytes);
    }
    let separator = Separator::of(first);
    let mut columns = Vec::new();
    fields(first, separator, &mut columns).map_err(|what| BadRow::new(row, what))?;
    if let Some(names) = text::header(&columns) {
        let no_country = || BadRow::new(row, CountryFault::NoColumn("a country"));
        return match Named::country(&names).ok_or_else(no_country)? {
            named @ Named { geoname: Some(_), .. } => maxmind(bytes, &named, path),
            named => by_header(bytes, separator, &named, |row, columns| {
                let code = columns.get(named.value).copied().unwrap_or_default();
                Ok(text::country(row, code)?.map(Located::Country))
            }),
        };
    }
    // iptoasn: start, end, AS number, code, name.
    let iptoasn = separator == Separator::Tab
        && columns.len() >= 4
        && columns.get(2).is_some_and(|c| !c.is_empty() && c.iter().all(u8::is_ascii_digit));
    let column = if iptoasn { 3 } else { 2 };
    by_position(bytes, separator, column, |row, code| {
        Ok(text::country(row, code)?.map(Located::Country))
    })
}

/// Reads an AS table: `start,end,number,...` by comma or tab, or prefixes with a header.
pub(in crate::control::data) fn as_numbers(bytes: &[u8]) -> Result<Read<u32>, BadRow> {
    let (row, first) = first_line(bytes)?;
    let separator = Separator::of(first);
    let mut columns = Vec::new();
    fields(first, separator, &mut columns).map_err(|what| BadRow::new(row, what))?;
    if let Some(names) = text::header(&columns) {
        let no_number = || BadRow::new(row, CountryFault::NoColumn("an AS number"));
        let named = Named::asn(&names).ok_or_else(no_number)?;
        return by_header(bytes, separator, &named, |row, columns| {
            as_number(row, columns.get(named.value).copied().unwrap_or_default())
        });
    }
    by_position(bytes, separator, 2, as_number)
}

fn first_line(bytes: &[u8]) -> Result<(u64, &[u8]), BadRow> {
    lines(bytes).next().ok_or_else(|| BadRow::new(0, CountryFault::Empty))
}

fn done<V: Copy + PartialEq>(
    builder: Builder<V>,
    as_of: Option<Timestamp>,
) -> Result<Read<V>, BadRow> {
    let rows = builder.rows() as u64;
    Ok(Read { ranges: builder.finish()?, rows, as_of, beside: None })
}

/// Rows of `first,last,...` with the value at `column`.
fn by_position<V: Copy + PartialEq>(
    bytes: &[u8],
    separator: Separator,
    column: usize,
    value: impl Fn(u64, &[u8]) -> Result<Option<V>, BadRow>,
) -> Result<Read<V>, BadRow> {
    let mut builder = Builder::default();
    let mut columns = Vec::new();
    for (row, line) in lines(bytes) {
        fields(line, separator, &mut columns).map_err(|what| BadRow::new(row, what))?;
        let (Some(first), Some(last), Some(code)) =
            (columns.first(), columns.get(1), columns.get(column))
        else {
            let (has, needs) = (columns.len(), column + 1);
            return Err(BadRow::new(row, CountryFault::TooFewColumns { has, needs }));
        };
        let (first, last) = (text::address(row, first)?, text::address(row, last)?);
        builder.push(row, first, last, value(row, code)?)?;
    }
    done(builder, None)
}

/// Where the columns of a file with a header are.
struct Named {
    /// The prefix, or the first address.
    first: usize,
    /// The last address, where the first column is no prefix.
    last: Option<usize>,
    value: usize,
    /// MaxMind's key into the file of locations, and its anycast mark.
    geoname: Option<usize>,
    anycast: Option<usize>,
    /// How many columns the header has.
    count: usize,
}

impl Named {
    fn country(names: &[String]) -> Option<Self> {
        let at = |name: &str| names.iter().position(|n| n == name);
        let geoname = at("geoname_id").filter(|_| at("country_code").is_none());
        let code = ["country_code", "country_iso_code", "iso_code", "country", "cc"];
        let value = geoname.or_else(|| code.into_iter().find_map(at))?;
        Some(Self { geoname, anycast: at("is_anycast"), ..Self::ends(names, value) })
    }

    fn asn(names: &[String]) -> Option<Self> {
        let columns = ["autonomous_system_number", "asn", "as_number", "as"];
        let value = columns.into_iter().find_map(|c| names.iter().position(|n| n == c))?;
        Some(Self::ends(names, value))
    }

    fn ends(names: &[String], value: usize) -> Self {
        const LAST: [&str; 6] = ["end", "end_ip", "ip_to", "last", "range_end", "stop"];
        let last = names.iter().position(|name| LAST.contains(&name.as_str()));
        Self { first: 0, last, value, geoname: None, anycast: None, count: names.len() }
    }
}

/// Rows under a header.
fn by_header<V: Copy + PartialEq>(
    bytes: &[u8],
    separator: Separator,
    named: &Named,
    value: impl Fn(u64, &[&[u8]]) -> Result<Option<V>, BadRow>,
) -> Result<Read<V>, BadRow> {
    let mut builder = Builder::default();
    let mut columns = Vec::new();
    for (row, line) in lines(bytes).skip(1) {
        fields(line, separator, &mut columns).map_err(|what| BadRow::new(row, what))?;
        if columns.len() != named.count {
            let (has, names) = (columns.len(), named.count);
            return Err(BadRow::new(row, CountryFault::OtherThanHeader { has, names }));
        }
        let columns: Vec<&[u8]> = columns.iter().map(AsRef::as_ref).collect();
        let at = |column: usize| columns.get(column).copied().unwrap_or_default();
        let (first, last) = match named.last {
            Some(last) => (text::address(row, at(named.first))?, text::address(row, at(last))?),
            None => ends(prefix(row, at(named.first))?),
        };
        builder.push(row, first, last, value(row, &columns)?)?;
    }
    done(builder, None)
}

/// The first and the last address of a prefix.
fn ends(net: IpNet) -> (IpAddr, IpAddr) {
    (net.network(), net.broadcast())
}

/// MaxMind's CSV: blocks name a geoname, and a file of locations beside them the country. A block
/// that only names where its holder is registered is no answer.
fn maxmind(bytes: &[u8], named: &Named, path: &Path) -> Result<Read<Located>, BadRow> {
    let (places, beside) = locations(path).map_err(|what| BadRow::new(1, what))?;
    let read = by_header(bytes, Separator::Comma, named, |row, columns| {
        let at = |column: Option<usize>| column.and_then(|c| columns.get(c)).copied();
        if at(named.anycast) == Some(b"1") {
            return Ok(Some(Located::Anycast));
        }
        match at(named.geoname) {
            None | Some([]) => Ok(None),
            Some(id) => match places.get(id) {
                Some(&place) => Ok(place.map(Located::Country)),
                None => Err(BadRow::new(row, CountryFault::Geoname(shown(id)))),
            },
        }
    })?;
    Ok(Read { beside: Some(beside), ..read })
}

/// The country of each geoname.
type Places = HashMap<Vec<u8>, Option<Country>>;

/// The one `...-Locations-en.csv` beside `path`.
pub(in crate::control::data) fn file_of_locations(path: &Path) -> Result<PathBuf, LocationsFault> {
    let folder =
        path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let entries = folder.read_dir().map_err(LocationsFault::Folder)?;
    let mut found = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| {
        path.file_name().is_some_and(|n| n.to_string_lossy().ends_with("-Locations-en.csv"))
    });
    let (Some(file), None) = (found.next(), found.next()) else {
        return Err(LocationsFault::NotOne);
    };
    Ok(file)
}

/// Geoname to country, by the file of locations beside `path`.
fn locations(path: &Path) -> Result<(Places, FileStamp), LocationsFault> {
    let file = file_of_locations(path)?;
    let content = file::read(&file).map_err(LocationsFault::Unreadable)?;
    let mut columns = Vec::new();
    let mut places = HashMap::new();
    let mut at = None;
    for (row, line) in lines(&content.bytes) {
        let bad = |what: Cause| LocationsFault::Row { file: shown_path(&file), row, what };
        fields(line, Separator::Comma, &mut columns).map_err(|what| bad(what.into()))?;
        let position = |name: &[u8]| columns.iter().position(|c| c.as_ref() == name);
        let Some((id, code)) = at else {
            let named = position(b"geoname_id").zip(position(b"country_iso_code"));
            at = Some(named.ok_or_else(|| bad(LocationsFault::NoColumns.into()))?);
            continue;
        };
        let (Some(id), Some(code)) = (columns.get(id), columns.get(code)) else {
            return Err(bad(LocationsFault::ColumnMissing.into()));
        };
        let code = text::country(row, code).map_err(|row| bad(row.what))?;
        places.insert(id.to_vec(), code);
    }
    Ok((places, content.stamp(&file).beside(path)))
}

/// RIR statistics, delegated or delegated-extended: where the holder is registered. Several files
/// in a row are one table; the counts in their summaries must hold, which shows a cut file.
fn statistics(bytes: &[u8]) -> Result<Read<Located>, BadRow> {
    let mut builder = Builder::default();
    let mut counted: HashMap<&[u8], i64> = HashMap::new();
    let mut as_of = None;
    let mut rows = 0;
    let mut last_row = 0;
    for (row, line) in lines(bytes) {
        let columns: Vec<&[u8]> =
            line.split(|&byte| byte == b'|').map(<[u8]>::trim_ascii).collect();
        last_row = row;
        match columns.as_slice() {
            [_, b"*", kind, b"*", count, b"summary"] => {
                *counted.entry(*kind).or_default() += number::<i64>(row, count)?;
            }
            [version, _, serial, _, _, end, _]
                if version.iter().all(|b| b.is_ascii_digit() || *b == b'.') =>
            {
                // The older of several files counts for all.
                let date = day(end).or_else(|| day(serial));
                as_of = if rows == 0 { date } else { as_of.min(date) };
            }
            [_, code, kind, start, value, _, status, ..] => {
                rows += 1;
                *counted.entry(*kind).or_default() -= 1;
                if matches!(*status, b"allocated" | b"assigned") && *kind != b"asn" {
                    let (first, last) = delegated(row, kind, start, value)?;
                    let country = text::country(row, code)?.map(Located::Country);
                    builder.push(row, first, last, country)?;
                }
            }
            _ => return Err(BadRow::new(row, CountryFault::NoStatistics)),
        }
    }
    if let Some((kind, &missing)) = counted.iter().find(|(_, off)| **off != 0) {
        let kind = shown(kind);
        return Err(BadRow::new(last_row, CountryFault::RowsMissing { missing, kind }));
    }
    Ok(Read { rows, ..done(builder, as_of)? })
}

/// The range of a record: an IPv4 count of addresses, which need not be a power of two, or an IPv6
/// prefix length.
fn delegated(
    row: u64,
    kind: &[u8],
    start: &[u8],
    value: &[u8],
) -> Result<(IpAddr, IpAddr), BadRow> {
    let first = text::address(row, start)?;
    match (kind, first) {
        (b"ipv4", IpAddr::V4(first)) => {
            let count: u32 = number(row, value)?;
            let last = count.checked_sub(1).and_then(|more| first.to_bits().checked_add(more));
            let last = last.ok_or_else(|| BadRow::new(row, CountryFault::Beyond(count)))?;
            Ok((first.into(), Ipv4Addr::from_bits(last).into()))
        }
        (b"ipv6", IpAddr::V6(first)) => {
            let net = IpNet::new(first.into(), number(row, value)?).ok();
            let net = net.filter(|net| net.trunc() == *net);
            net.map(ends).ok_or_else(|| BadRow::new(row, CountryFault::NoPrefix))
        }
        _ => Err(BadRow::new(row, CountryFault::OtherFamily(shown(start), shown(kind)))),
    }
}

fn number<N: std::str::FromStr>(row: u64, field: &[u8]) -> Result<N, BadRow> {
    let number = str::from_utf8(field).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| BadRow::new(row, CountryFault::NoNumber(shown(field))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &[u8]) -> Result<Read<Located>, BadRow> {
        countries(text, Path::new("test"))
    }

    #[test]
    fn a_row_of_statistics_that_does_not_fit_is_refused() {
        let head = "2|test|20260924|1|19700101|20260924|+0000\ntest|*|ipv4|*|1|summary\n";
        let row = |row: &str| whole(format!("{head}{row}\n").as_bytes());
        assert_eq!(
            row("test|FR|ipv4|192.0.2.0|768|20100101|assigned|x").unwrap().ranges.v4[0].1,
            0xc000_04ff
        );
        for bad in [
            "test|FR|ipv4|192.0.2.0|0|20100101|assigned",
            "test|FR|ipv4|255.255.255.0|257|20100101|assigned",
            "test|FR|ipv4|2001:db8::|256|20100101|assigned",
            "test|FR|ipv4|192.0.2.0|-1|20100101|assigned",
            "test|FR|ipv4|192.0.2.0",
            "test|FR|ipv6|2001:db8::|32|20100101|assigned",
        ] {
            assert!(row(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // Nothing random is a table: a row needs two addresses.
            prop_assert!(whole(&bytes).is_err());
            prop_assert!(as_numbers(&bytes).is_err());
        }

        /// Rows in any order answer as a linear scan of them does, at each edge and beside it.
        #[test]
        fn the_table_agrees_with_a_linear_scan(
            ends in proptest::collection::btree_set(any::<u32>(), 0..80),
            codes in proptest::collection::vec(0..Country::COUNT, 40),
            turn in 0..40_usize,
        ) {
            let ends: Vec<u32> = ends.into_iter().collect();
            let mut rows: Vec<(u32, u32, Country)> = ends
                .chunks_exact(2)
                .zip(&codes)
                .map(|(pair, &code)| (pair[0], pair[1], Country::from_index(code).unwrap()))
                .collect();
            let at = turn.min(rows.len());
            rows.rotate_left(at);
            prop_assume!(!rows.is_empty());
            let mut text = String::new();
            for (first, last, country) in &rows {
                let (first, last) = (Ipv4Addr::from_bits(*first), Ipv4Addr::from_bits(*last));
                text.push_str(&format!("{first},{last},{country}\n"));
            }
            let table = whole(text.as_bytes()).unwrap().ranges;
            for end in ends {
                for at in [end.wrapping_sub(1), end, end.wrapping_add(1)] {
                    let scan = rows.iter().find(|row| (row.0..=row.1).contains(&at));
                    let wanted = scan.map(|row| Located::Country(row.2));
                    let got = table.lookup(IpAddr::V4(Ipv4Addr::from_bits(at)));
                    prop_assert_eq!(got, wanted, "at {}", at);
                }
            }
        }
    }
}
