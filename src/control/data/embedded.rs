//! The tables in the binary, so that a gateway without a file can judge. `config/README.md` says
//! how they are made, `config/NOTICE` from whose work.

use super::formats::file;
use super::formats::sgt::{self, Body, SgtFault};
use super::model::{AsnTable, CountryTable, DataFault, ProviderTable, SourceInfo};

const COUNTRY: &[u8] = include_bytes!("../../../config/tables/country.sgt");
const DISSENT: &[u8] = include_bytes!("../../../config/tables/dissent.sgt");
const REGISTRANT: &[u8] = include_bytes!("../../../config/tables/registrant.sgt");
const ASN: &[u8] = include_bytes!("../../../config/tables/asn.sgt");
const CLOUD: &[u8] = include_bytes!("../../../config/tables/cloud.sgt");

/// Where addresses are, by two of three tables: `embedded:country`.
///
/// # Errors
/// The binary is damaged.
pub fn embedded_country() -> Result<CountryTable, DataFault> {
    country("embedded:country", COUNTRY)
}

/// Where DB-IP places addresses elsewhere than [`embedded_country`]: `embedded:db-ip`. It is
/// nothing but dissent.
///
/// # Errors
/// As for [`embedded_country`].
pub fn embedded_dissent() -> Result<CountryTable, DataFault> {
    country("embedded:db-ip", DISSENT)
}

/// Where the holders of addresses are registered: `embedded:registrant`. It says nothing about
/// where an address is (it is right for 33 to 52 % of the space of the large clouds).
///
/// # Errors
/// As for [`embedded_country`].
pub fn embedded_registrant() -> Result<CountryTable, DataFault> {
    country("embedded:registrant", REGISTRANT)
}

/// The networks of the operators in `operators.csv`: `embedded:asn`.
///
/// # Errors
/// As for [`embedded_country`].
pub fn embedded_asn() -> Result<AsnTable, DataFault> {
    match read("embedded:asn", ASN)? {
        (info, Body::Asn(ranges)) => Ok(AsnTable { info, ranges }),
        (info, other) => Err(wrong(&info, &other)),
    }
}

/// The published regions of the large clouds: `embedded:cloud`.
///
/// # Errors
/// As for [`embedded_country`].
pub fn embedded_providers() -> Result<ProviderTable, DataFault> {
    match read("embedded:cloud", CLOUD)? {
        (info, Body::Provider(rows)) => Ok(ProviderTable { info, rows }),
        (info, other) => Err(wrong(&info, &other)),
    }
}

fn country(name: &str, table: &[u8]) -> Result<CountryTable, DataFault> {
    match read(name, table)? {
        (info, Body::Country(ranges)) => Ok(CountryTable { info, ranges }),
        (info, other) => Err(wrong(&info, &other)),
    }
}

fn read(name: &str, table: &[u8]) -> Result<(SourceInfo, Body), DataFault> {
    let fault =
        |what: SgtFault| DataFault { source: name.to_owned(), row: None, what: what.into() };
    let (header, body) = sgt::read(table).map_err(fault)?;
    let info = SourceInfo {
        name: header.name,
        origin: None,
        as_of: header.as_of,
        dated_by_file: false,
        rows: header.rows,
        licence: Some(header.licence),
        digest: file::digest(table),
        files: Vec::new(),
    };
    Ok((info, body))
}

/// A table of this kind stands in the place of another.
#[derive(Debug, thiserror::Error)]
#[error("is a table of kind {0}; this build is faulty")]
struct OtherKind(&'static str);

fn wrong(info: &SourceInfo, body: &Body) -> DataFault {
    DataFault { source: info.name.clone(), row: None, what: OtherKind(body.kind()).into() }
}
