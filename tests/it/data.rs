//! The loaders against real files, where they lie beside the repository, and the embedded tables
//! against independent readers.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use schengate::control::config::{Data, Source};
use schengate::control::data::{
    CountryTable, Facts, Located, ProviderRow, ProviderTable, RegionPlace, embedded_asn,
    embedded_country, embedded_dissent, embedded_providers, embedded_registrant, list, load,
    load_asn, load_country, load_provider,
};
use schengate::policy::Country;

/// A folder of the material beside the repository (`SCHENGATE_SHARED`, else `../shared`); `None`,
/// after saying so, where it is absent.
fn shared(folder: &str) -> Option<PathBuf> {
    let root = std::env::var_os("SCHENGATE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let path = root.join(folder);
    if !path.exists() {
        eprintln!("LEFT OUT: {} is absent", path.display());
        return None;
    }
    Some(path)
}

/// Every file under `folder`, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn file_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn only(sources: &[&Path]) -> Vec<Source> {
    sources.iter().map(|path| Source::File(path.to_path_buf())).collect()
}

fn data(country: Vec<Source>, asn: Vec<Source>, providers: Vec<Source>) -> Data {
    Data { directory: PathBuf::new(), country, asn, providers, ..Data::default() }
}

#[test]
fn every_table_of_the_scenarios_loads() {
    let Some(scenarios) = shared("scenarios") else { return };
    let mut seen = 0;
    for path in files(&scenarios).iter().filter(|p| p.parent().unwrap().ends_with("tables")) {
        let loaded = match file_name(path) {
            "hosts.txt" => continue,
            name if name.starts_with("asn") => load_asn(path).map(|t| t.info),
            name if name.starts_with("aws") => load_provider(path).map(|t| t.info),
            _ => load_country(path).map(|t| t.info),
        };
        let info = loaded.unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(info.name == "aws-ranges", file_name(path).starts_with("aws"));
        assert!(info.rows > 0 && info.as_of.is_some() && info.digest.len() == 64);
        seen += 1;
    }
    assert!(seen > 200, "{seen}");
}

/// The reader's own lookup of the first and the last address of each network, against the table.
#[test]
fn maxminds_test_files_answer_as_a_direct_lookup_does() {
    let Some(folder) = shared("data/maxmind-test/test-data") else { return };
    let mut checked = 0;
    for name in [
        "GeoIP2-Country-Test.mmdb",
        "GeoIP2-City-Test.mmdb",
        "GeoLite2-Country-Test.mmdb",
        "GeoLite2-City-Test.mmdb",
        "GeoIP2-Enterprise-Test.mmdb",
    ] {
        let table = load_country(&folder.join(name)).unwrap();
        let reader = maxminddb::Reader::open_readfile(folder.join(name)).unwrap();
        for found in reader.networks(maxminddb::WithinOptions::default()).unwrap() {
            let found = found.unwrap();
            let record: serde_json::Value = found.decode().unwrap().unwrap();
            let code = record["country"]["iso_code"].as_str().unwrap_or_default();
            let wanted = if record["traits"]["is_anycast"] == true {
                Some(Located::Anycast)
            } else {
                Country::from_code(code).map(Located::Country)
            };
            let net: IpNet = found.network().unwrap().to_string().parse().unwrap();
            for address in [net.network(), net.broadcast()] {
                assert_eq!(table.ranges.lookup(inner(address)), wanted, "{name} {address}");
                checked += 1;
            }
        }
    }
    for name in ["GeoLite2-ASN-Test.mmdb", "GeoIP2-ISP-Test.mmdb"] {
        let table = load_asn(&folder.join(name)).unwrap();
        let reader = maxminddb::Reader::open_readfile(folder.join(name)).unwrap();
        for found in reader.networks(maxminddb::WithinOptions::default()).unwrap() {
            let found = found.unwrap();
            let record: serde_json::Value = found.decode().unwrap().unwrap();
            let wanted = record["autonomous_system_number"].as_u64();
            let net: IpNet = found.network().unwrap().to_string().parse().unwrap();
            let got = table.ranges.lookup(inner(net.network()));
            assert_eq!(got.map(u64::from), wanted, "{name} {net}");
            checked += 1;
        }
    }
    assert!(checked > 3_000, "{checked}");
}

/// In a tree of IPv6, the address in `::/96` is the IPv4 address.
fn inner(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) if six.to_bits() <= u128::from(u32::MAX) => {
            IpAddr::V4(Ipv4Addr::from_bits(six.to_bits() as u32))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}

#[test]
fn the_known_records_of_maxminds_test_files_are_read_as_places() {
    let Some(folder) = shared("data/maxmind-test/test-data") else { return };
    let table = load_country(&folder.join("GeoIP2-Country-Test.mmdb")).unwrap();
    let at = |address: &str| table.ranges.lookup(address.parse().unwrap());
    let country = |code| Country::from_code(code).map(Located::Country);
    assert_eq!(at("2.125.160.217"), country("GB"), "registered in FR");
    assert_eq!(at("214.1.1.9"), Some(Located::Anycast));
    assert_eq!(at("2a02:d500::1"), None, "a continent is not a country");
    let enterprise = load_country(&folder.join("GeoIP2-Enterprise-Test.mmdb")).unwrap();
    let registered_only = enterprise.ranges.lookup("5.83.124.1".parse().unwrap());
    assert_eq!(registered_only, None, "where a holder is registered is not a place");
}

#[test]
fn a_bad_mmdb_is_a_fault_or_a_sound_table_and_never_a_panic() {
    let Some(folder) = shared("data/maxmind-test") else { return };
    let mut faults = 0;
    for path in files(&folder) {
        match load_country(&path) {
            Ok(CountryTable { ranges, .. }) => {
                assert!(ranges.v4.is_sorted_by(|a, b| a.1 < b.0), "{}", path.display());
                assert!(ranges.v6.is_sorted_by(|a, b| a.1 < b.0), "{}", path.display());
            }
            Err(fault) => {
                assert!(fault.to_string().contains(file_name(&path)), "{fault}");
                faults += 1;
            }
        }
        if let Ok(table) = load_asn(&path) {
            assert!(table.ranges.v4.is_sorted_by(|a, b| a.1 < b.0));
        }
        assert!(load_provider(&path).is_err(), "{}", path.display());
    }
    assert!(faults >= 35, "{faults}");
}

/// Damage at places drawn by a fixed generator, over the tree, the data and the metadata.
#[test]
fn a_damaged_mmdb_is_a_fault_or_a_sound_table_and_never_a_panic() {
    let Some(folder) = shared("data/maxmind-test/test-data") else { return };
    let whole = fs::read(folder.join("GeoIP2-Country-Test.mmdb")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.mmdb");
    let (mut state, mut faults) = (1_u64, 0);
    for _ in 0..1_500 {
        let mut bytes = whole.clone();
        for _ in 0..2 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 20) as u8;
        }
        fs::write(&path, &bytes).unwrap();
        match load_country(&path) {
            Ok(table) => assert!(table.ranges.v6.is_sorted_by(|a, b| a.1 < b.0)),
            Err(_) => faults += 1,
        }
    }
    assert!((100..1_500).contains(&faults), "{faults}");
    for end in (0..whole.len()).step_by(97) {
        fs::write(&path, &whole[..end]).unwrap();
        assert!(load_country(&path).is_err(), "cut at {end}");
    }
}

#[test]
fn a_fifo_is_refused_without_waiting_for_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("LEFT OUT: mkfifo cannot be run");
        return;
    }
    assert!(load_country(&path).unwrap_err().said().contains("not a regular file"));
}

#[test]
fn each_providers_own_file_is_read() {
    let Some(folder) = shared("data/cloud/original") else { return };
    for (file, key, rows, date) in [
        ("aws-ip-ranges-2026-08-22.json.gz", "aws", 16_828, Some("2026-08-2")),
        ("azure-ServiceTags_Public-2025-11-06.json.gz", "azure", 0, None),
        ("gcp-cloud-2025-07-24.json.gz", "gcp", 782, Some("2025-07-24")),
        ("oci-public_ip_ranges-2025-07-21.json.gz", "oci", 0, Some("2025-07-21")),
        ("cloudflare-ips-v4.txt", "cloudflare", 15, None),
        ("cloudflare-ips-v6.txt", "cloudflare", 7, None),
        ("fastly-public-ip-list-2025-07.json", "fastly", 21, None),
        ("digitalocean-geofeed-2025-07.csv", "digitalocean", 1_182, None),
        ("linode-geofeed-2025-07-24.csv", "linode", 4_552, None),
    ] {
        let table = load_provider(&folder.join(file)).unwrap_or_else(|fault| panic!("{fault}"));
        assert!(table.rows.iter().all(|row| row.provider == key), "{file}");
        assert!(rows == 0 || table.info.rows == rows, "{file}: {} rows", table.info.rows);
        if let Some(date) = date {
            assert!(table.info.as_of.unwrap().to_string().starts_with(date), "{file}");
        }
        let anycast = table.rows.iter().filter(|row| row.anycast).count();
        let all = ["cloudflare", "fastly"].contains(&key);
        assert!(!all || anycast == table.rows.len(), "{file}");
    }
    let merged = load_provider(&folder.join("../cloud-ranges.csv")).unwrap();
    assert_eq!(merged.info.rows, 28_296);
    assert!(merged.rows.iter().filter(|row| row.anycast).count() > 900);
    let unknown = ["github-meta-2025-07.json.gz", "zscaler-2025-07.json"];
    assert!(unknown.iter().all(|file| load_provider(&folder.join(file)).is_err()));
}

/// The rows of the longest prefix that holds `address`.
fn published(table: &ProviderTable, address: IpAddr) -> Vec<&ProviderRow> {
    let around: Vec<&ProviderRow> =
        table.rows.iter().filter(|row| row.net.contains(&address)).collect();
    let longest = around.iter().map(|row| row.net.prefix_len()).max();
    around.into_iter().filter(|row| Some(row.net.prefix_len()) == longest).collect()
}

/// Country code of a row by itself or its region; `ZZ` where it is announced from many places.
fn code_of(row: &ProviderRow, regions: &HashMap<(&str, &str), RegionPlace>) -> &'static str {
    if row.anycast {
        return "ZZ";
    }
    let region = regions.get(&(row.provider.as_str(), row.region.as_str())).copied();
    match (row.country, region) {
        (Some(country), _) | (None, Some(RegionPlace::Country(country))) => country.code(),
        (None, Some(RegionPlace::Anycast)) => "ZZ",
        (None, _) => "",
    }
}

fn regions() -> HashMap<(&'static str, &'static str), RegionPlace> {
    let regions = Facts::built_in().regions.iter();
    regions.map(|r| ((r.provider.as_str(), r.region.as_str()), r.place)).collect()
}

/// `expected-lookups.csv` was made from the same registrant package, which agrees on every address,
/// from one of the three packages of the country table, which the other two outvote on some and which
/// is not heard where each of them says something else or nobody holds the space, and from an overlay
/// of other, mostly older provider files.
#[test]
fn the_embedded_tables_agree_with_an_independent_lookup() {
    let Some(folder) = shared("data/geo") else { return };
    let (country, registrant) = (embedded_country().unwrap(), embedded_registrant().unwrap());
    let (asn, cloud) = (embedded_asn().unwrap(), embedded_providers().unwrap());
    let listed: Vec<u32> = Facts::built_in().operators.iter().map(|o| o.asn).collect();
    let regions = regions();
    let text = fs::read_to_string(folder.join("expected-lookups.csv")).unwrap();
    let (mut checked, mut outvoted, mut unheard, mut differences) = (0, 0, 0, Vec::new());
    for line in text.lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        let address: IpAddr = columns[0].parse().unwrap();
        if matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some()) {
            // Here such an address is the IPv4 address; the file takes it as it stands.
            continue;
        }
        let code = |found: Option<Located>| match found {
            Some(Located::Country(country)) => country.code(),
            Some(Located::Anycast) => "ZZ",
            None => "",
        };
        let expected = |code: &str| Country::from_code(code).map_or("", Country::code);
        let (geo, rir) = (country.ranges.lookup(address), registrant.ranges.lookup(address));
        let differs = code(geo) != expected(columns[1]);
        outvoted += usize::from(differs && geo.is_some());
        unheard += usize::from(differs && geo.is_none());
        assert_eq!(code(rir), expected(columns[2]), "{line}");
        let wanted = columns[3].parse().ok().filter(|asn| listed.contains(asn));
        assert_eq!(asn.ranges.lookup(address), wanted, "{line}");
        if columns[4].is_empty() || ["linode", "fastly"].contains(&columns[4]) {
            continue;
        }
        let rows = published(&cloud, address);
        let mut codes: Vec<&str> = rows.iter().map(|row| code_of(row, &regions)).collect();
        codes.sort_unstable();
        codes.dedup();
        if codes != [columns[6]] {
            assert!(codes.contains(&columns[6]), "{line} is {codes:?}");
            differences.push(format!("{address}: {codes:?}"));
        }
        checked += 1;
    }
    assert!(checked > 100, "{checked}");
    assert!(differences.is_empty(), "{differences:?}");
    assert!((1..20).contains(&outvoted), "{outvoted}");
    assert!((1..20).contains(&unheard), "{unheard}");
}

/// Against the provider's own list: no address that AWS places in one country is placed only in
/// others. `ap-southeast-1` and the like are compared by country, since that is what is judged.
#[test]
fn no_embedded_aws_range_hides_the_country_that_aws_names() {
    let Some(folder) = shared("data/cloud/original") else { return };
    let truth = load_provider(&folder.join("aws-ip-ranges-2026-08-22.json.gz")).unwrap();
    let cloud = embedded_providers().unwrap();
    let regions = regions();
    let mut by_net: HashMap<IpNet, Vec<&ProviderRow>> = HashMap::new();
    for row in cloud.rows.iter().filter(|row| row.provider == "aws") {
        by_net.entry(row.net).or_default().push(row);
    }
    let (mut checked, mut hidden) = (0, Vec::new());
    for row in &truth.rows {
        let Some(rows) = by_net.get(&row.net) else { continue };
        let (wanted, codes): (_, Vec<_>) =
            (code_of(row, &regions), rows.iter().map(|row| code_of(row, &regions)).collect());
        checked += 1;
        if !codes.contains(&wanted) && !codes.contains(&"ZZ") && !codes.contains(&"") {
            hidden.push(format!("{} {wanted} {codes:?}", row.net));
        }
    }
    assert!(checked > 5_000 && hidden.is_empty(), "{checked} {hidden:?}");
}

#[test]
fn each_sample_of_a_published_form_loads() {
    let Some(folder) = shared("data/geo/samples") else { return };
    for (file, rows) in [("tor-geoip.head.txt", 0), ("tor-geoip6.head.txt", 0)] {
        let table = load_country(&folder.join(file)).unwrap_or_else(|fault| panic!("{fault}"));
        assert!(table.info.rows > rows, "{file}");
    }
    for family in ["ipv4", "ipv6"] {
        let load = |form: &str| {
            let path = folder.join(format!("asn-{family}{form}.head.csv"));
            load_asn(&path).unwrap_or_else(|fault| panic!("{fault}"))
        };
        let (spelled, decimal) = (load("").ranges, load("-num").ranges);
        // Both are the same rows, but one of the two files is cut earlier.
        let v4 = spelled.v4.iter().zip(&decimal.v4).filter(|(a, b)| a == b).count();
        let v6 = spelled.v6.iter().zip(&decimal.v6).filter(|(a, b)| a == b).count();
        let least = spelled.len().min(decimal.len());
        assert!(v4 + v6 + 1 >= least && least > 50, "{family}: {v4} {v6} of {least}");
    }
    let sample = folder.join("delegated-extended.sample.txt");
    let table = load_country(&sample).unwrap();
    assert_eq!(table.info.as_of.unwrap().to_string(), "2026-09-24T00:00:00Z");
    assert_eq!((table.ranges.v4.len(), table.ranges.v6.len(), table.info.rows), (2, 1, 9));
    let at = |address: &str| table.ranges.lookup(address.parse().unwrap());
    assert_eq!(at("198.51.100.191"), Country::from_code("DE").map(Located::Country));
    assert_eq!(at("198.51.100.192"), None);
    let text = fs::read_to_string(&sample).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (i, _) in text.match_indices('\n').take_while(|(i, _)| i + 1 < text.len()) {
        let cut = dir.path().join("cut");
        fs::write(&cut, &text[..=i]).unwrap();
        assert!(load_country(&cut).is_err(), "cut after byte {i}");
    }
}

fn write(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn every_spelling_of_one_table_gives_one_table() {
    let dir = tempfile::tempdir().unwrap();
    let spellings = [
        ("plain", "192.0.2.0,192.0.2.255,FR\n2001:db8::,2001:db8::ffff,DE\n"),
        ("order", "2001:db8::,2001:db8::ffff,DE\n\n192.0.2.0,192.0.2.255,FR"),
        (
            "crlf",
            "\u{feff}# made by hand\r\n\"192.0.2.0\",\"192.0.2.255\",\"FR\"\r\n2001:db8::,2001:db8::ffff,de\r\n",
        ),
        (
            "decimal",
            "3221225984,3221226239,FR,France\n42540766411282592856903984951653826560,42540766411282592856903984951653892095,DE\n",
        ),
        (
            "iptoasn",
            "192.0.2.0\t192.0.2.255\t64496\tFR\tA \"name\"\n198.51.100.0\t198.51.100.255\t0\tNone\tNot routed\n2001:db8::\t2001:db8::ffff\t64497\tDE\tB\n",
        ),
        ("tsv", "192.0.2.0\t192.0.2.255\tFR\n2001:db8::\t2001:db8::ffff\tDE\n"),
        (
            "ipinfo",
            "network,country,country_code,asn\n192.0.2.0/24,France,FR,AS64496\n2001:db8::/112,Germany,DE,\n198.51.100.7,,,\n",
        ),
        (
            "header",
            "start_ip,end_ip,country\n192.0.2.0,192.0.2.255,FR\n2001:db8::,2001:db8::ffff,DE\n",
        ),
        (
            "twice",
            "192.0.2.0,192.0.2.255,FR\n192.0.2.0,192.0.2.255,FR\n2001:db8::,2001:db8::ffff,DE\n",
        ),
    ];
    let load = |(name, text)| load_country(&write(dir.path(), name, text)).unwrap().ranges;
    let first = load(spellings[0]);
    assert_eq!((first.v4.len(), first.v6.len()), (1, 1));
    for spelling in spellings {
        assert_eq!(load(spelling), first, "{}", spelling.0);
    }
    let asn = |name, text| load_asn(&write(dir.path(), name, text)).unwrap().ranges;
    let numbers =
        asn("a", "192.0.2.0,192.0.2.255,64496,\"A, \"\"b\"\"\"\n198.51.100.0,198.51.100.9,0,-\n");
    assert_eq!(
        numbers,
        asn("b", "network,asn,as_name\n192.0.2.0/24,AS64496,A\n198.51.100.0/24,,\n")
    );
    assert_eq!(numbers, asn("c", "192.0.2.0\t192.0.2.255\t64496\tFR\tA\n"));
}

#[test]
fn maxminds_csv_needs_its_locations_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = "network,geoname_id,registered_country_geoname_id,represented_country_geoname_id,\
                  is_anonymous_proxy,is_satellite_provider,is_anycast\n\
                  192.0.2.0/25,3017382,2921044,,0,0,\n192.0.2.128/25,,2921044,,0,0,\n\
                  198.51.100.0/24,,2921044,,0,0,1\n";
    let path = write(dir.path(), "GeoLite2-Country-Blocks-IPv4.csv", blocks);
    assert!(load_country(&path).unwrap_err().to_string().contains("Locations-en.csv"));
    let locations = "geoname_id,locale_code,continent_code,continent_name,country_iso_code,country_name\n\
                     3017382,en,EU,Europe,FR,France\n2921044,en,EU,Europe,DE,Germany\n6255148,en,EU,Europe,,\n";
    write(dir.path(), "GeoLite2-Country-Locations-en.csv", locations);
    let table = load_country(&path).unwrap();
    let at = |address: &str| table.ranges.lookup(address.parse().unwrap());
    assert_eq!(at("192.0.2.1"), Country::from_code("FR").map(Located::Country));
    assert_eq!(at("192.0.2.129"), None, "where it is registered is not a place");
    assert_eq!(at("198.51.100.1"), Some(Located::Anycast));
    write(dir.path(), "GeoLite2-Country-Locations-en.csv", &locations.replace("3017382", "1"));
    assert!(load_country(&path).is_err());
}

#[test]
fn a_faulty_table_is_refused_with_its_file_and_row() {
    let dir = tempfile::tempdir().unwrap();
    for (text, row, part) in [
        ("192.0.2.0,192.0.2.255,FR\n192.0.2.9,192.0.2.9,DE\n", Some(2), "overlaps row 1"),
        ("192.0.2.0,192.0.2.255,FR\n192.0.2.0,192.0.2.255,DE\n", Some(2), "contradicts row 1"),
        ("192.0.2.9,192.0.2.0,FR\n", Some(1), "ends before"),
        ("192.0.2.0,2001:db8::,FR\n", Some(1), "one end is IPv4"),
        ("# head\n192.0.2.0,192.0.2.255\n", Some(2), "columns"),
        ("192.0.2.0,192.0.2.255,FR\n192.0.3.0,192.0.3.", Some(2), "columns"),
        ("192.0.2.0,192.0.2.300,FR\n", Some(1), "not an address"),
        ("192.0.2.0,192.0.2.255,\"FR\n", Some(1), "quote"),
        ("192.0.2.0,192.0.2.255,France\n", Some(1), "two-letter"),
        ("network,country_code\n192.0.2.1/24,FR\n", Some(2), "beyond its length"),
        ("network,country_code\n192.0.2.0/24\n", Some(2), "columns"),
        ("network,city\n192.0.2.0/24,Paris\n", Some(1), "names no column"),
        ("192.0.2.0,192.0.2.255,??\n", None, "names no country"),
        ("# nothing\n", None, "no row"),
        ("", None, "empty"),
        ("\0\0\0\0", None, "no known form"),
        ("<!DOCTYPE html>\n", Some(1), "columns"),
    ] {
        let path = write(dir.path(), "table.csv", text);
        let fault = load_country(&path).expect_err(text);
        assert_eq!(fault.row, row, "{text:?}: {fault}");
        assert!(fault.said().contains(part) && fault.source.ends_with("table.csv"), "{fault}");
    }
}

#[test]
fn load_tells_every_fault_at_once_and_counts_a_double_once() {
    let dir = tempfile::tempdir().unwrap();
    let good = write(dir.path(), "good.csv", "192.0.2.0,192.0.2.255,FR\n");
    let bad = write(dir.path(), "bad.csv", "192.0.2.0,192.0.2.255\n");
    let absent = dir.path().join("absent.csv");
    let settings = data(only(&[&good, &bad]), only(&[&absent]), only(&[&bad, dir.path()]));
    let faults = load(&settings).unwrap_err();
    assert_eq!(faults.len(), 4, "{faults:?}");
    let twice = data(only(&[&good, &good]), vec![Source::Embedded], vec![Source::Embedded; 2]);
    let sources = load(&twice).unwrap();
    let counts = (sources.countries.len(), sources.asns.len(), sources.providers.len());
    assert_eq!(counts, (1, 1, 1));
    assert_eq!(sources.countries[0].info.name, "good.csv");
    let listed = list(&settings);
    assert_eq!(listed.iter().filter(|listing| listing.fault.is_some()).count(), 4);
    assert_eq!(listed.iter().filter(|listing| listing.kind == "facts").count(), 7);
    assert!(listed.iter().all(|listing| !listing.to_string().contains('\n')));
}

#[test]
fn the_embedded_tables_are_of_their_kind_and_of_their_date() {
    let tables = [
        (embedded_country().unwrap().info, "embedded:country", Some("2026-09-01")),
        (embedded_dissent().unwrap().info, "embedded:db-ip", Some("2026-09-01")),
        (embedded_asn().unwrap().info, "embedded:asn", Some("2026-06-17")),
        (embedded_providers().unwrap().info, "embedded:cloud", Some("2026-10-26")),
        (embedded_registrant().unwrap().info, "embedded:registrant", None),
    ];
    for (info, name, date) in tables {
        assert_eq!(info.name, name);
        assert_eq!(info.as_of.map(|at| at.to_string()[..10].to_owned()).as_deref(), date);
        assert!(info.licence.is_some() && info.rows > 1_000);
    }
    let listed = Facts::built_in();
    let asn = embedded_asn().unwrap();
    for range in asn.ranges.v4.iter().take(1_000) {
        assert!(listed.operators.iter().any(|operator| operator.asn == range.2));
    }
    let country = embedded_country().unwrap();
    let address = IpAddr::V6(Ipv6Addr::from_bits(0x2a00_1450_4007_u128 << 80));
    assert!(country.ranges.lookup(address).is_some());
}

/// How much of the space of IPv4 in the EEA is whose, by the embedded tables; addresses.
#[derive(Debug, Default)]
struct Reach {
    space: u64,
    /// Nobody says whose it is.
    unknown: u64,
    /// Somebody does, and is not sure.
    uncertain: u64,
    /// As `unknown`, where the registrant counts.
    unknown_registrant: u64,
    /// Of known operators: registered in none of the homes.
    registered_elsewhere: u64,
    /// Of known operators: registered under a permitted law, and some home is under another.
    registered_unsafe: u64,
    /// Of unknown operators: registered under a permitted law.
    registered_permitted: u64,
}

impl Reach {
    fn share(part: u64, whole: u64) -> f64 {
        100.0 * part as f64 / whole as f64
    }
}

fn reach() -> Reach {
    let text = "schema = 1\n[policy]\npermit = ['eea']\n[capture]\nshortcut = 'permitted'\n\
                [[listen]]\nmode = 'tproxy'\naddress = '127.0.0.1:15001'\n";
    let loaded = schengate::control::config::parse(text, None).unwrap();
    let (now, config) = ("2026-11-30T00:00:00Z".parse().unwrap(), loaded.config);
    let zone = |names: &[&str]| {
        let zones = &config.zones;
        let index = |name: &&str| zones.all.iter().position(|zone| zone.name == *name).unwrap();
        let plus = names.iter().map(|name| schengate::control::config::Term::Zone(index(name)));
        let list = schengate::control::config::ZoneList { plus: plus.collect(), minus: vec![] };
        zones.resolve(&list, now)
    };
    let (eea, permitted) = (zone(&["eea"]), zone(&["eea", "gdpr-adequacy"]));
    let sources = load(&config.data).unwrap();
    let compiler =
        schengate::control::compile::Compiler::new(config, sources, text, Vec::new(), now);
    let policy = compiler.policy_at(now);
    let address_table = policy.address_table();
    let registrants = embedded_registrant().unwrap().ranges.v4;
    let ranges = address_table.v4_ranges();
    let mut reach = Reach::default();
    let mut ahead = registrants.iter().peekable();
    for (at, &(first, class)) in ranges.iter().enumerate() {
        let last = ranges.get(at + 1).map_or(u32::MAX, |next| next.0 - 1);
        let class = &address_table.classes()[class as usize];
        let location = &address_table.locations()[class.location as usize];
        if !location.is_known() || !location.codes.is_subset(eea) {
            continue;
        }
        let operator = &address_table.operators()[class.operator as usize];
        let space = u64::from(last - first) + 1;
        reach.space += space;
        reach.unknown += if operator.is_named() { 0 } else { space };
        reach.unknown_registrant += if operator.is_named() { 0 } else { space };
        reach.uncertain += if operator.uncertain { space } else { 0 };
        while ahead.next_if(|registrant| registrant.1 < first).is_some() {}
        for &(from, to, said) in ahead.clone().take_while(|registrant| registrant.0 <= last) {
            let shared = u64::from(to.min(last) - from.max(first)) + 1;
            let Located::Country(country) = said else { continue };
            let country = schengate::policy::CountrySet::from_iter([country]);
            if !operator.is_named() {
                reach.unknown_registrant -= shared;
                reach.registered_permitted += if country.is_subset(permitted) { shared } else { 0 };
            } else if operator.is_known() {
                let elsewhere = !country.is_subset(operator.homes);
                reach.registered_elsewhere += if elsewhere { shared } else { 0 };
                let unsafe_ = country.is_subset(permitted) && !operator.homes.is_subset(permitted);
                reach.registered_unsafe += if unsafe_ { shared } else { 0 };
            }
        }
    }
    reach
}

#[test]
fn the_law_is_known_for_most_of_the_space_in_the_eea() {
    let reach = reach();
    let Reach { space, unknown, uncertain, unknown_registrant, .. } = reach;
    let [unknown_share, uncertain_share, registrant_share] =
        [unknown, uncertain, unknown_registrant].map(|part| Reach::share(part, space));
    let known = space - unknown - uncertain;
    let [elsewhere, unsafe_] =
        [reach.registered_elsewhere, reach.registered_unsafe].map(|part| Reach::share(part, known));
    println!(
        "{space} addresses in the EEA: {unknown_share:.2} % of unknown law ({registrant_share:.2} % \
         where the registrant counts), {uncertain_share:.2} % uncertain; of {known} known, \
         {elsewhere:.2} % registered elsewhere, {unsafe_:.2} % unsafe; of the unknown, {:.2} % \
         registered under a permitted law",
        Reach::share(reach.registered_permitted, unknown)
    );
    assert!(space > 500_000_000, "{space}");
    assert!(unknown_share <= 16.0, "{unknown_share}");
    assert!(registrant_share <= 3.0, "{registrant_share}");
}
