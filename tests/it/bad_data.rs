//! Tables that are damaged, forged or no tables at all: each is a clear fault that names the file
//! and, where there are rows, the row, or is sound all the same; within bounds of time and memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use schengate::control::data::{Ranges, load_asn, load_country, load_provider};
use serde_json::Value;

use crate::mmdb::{JUNE, country, mmdb};
use crate::support;

/// The built binary, under a minute of time and 600 MB of address space: what takes more fails.
fn bounded(arguments: &[&str]) -> Output {
    let script = "ulimit -v 600000; exec timeout 60 \"$@\"";
    let binary = env!("CARGO_BIN_EXE_schengate");
    Command::new("sh").args(["-c", script, "sh", binary]).args(arguments).output().unwrap()
}

/// What `data verify` says of files, as its exit status and its reports.
fn verify(files: &[&Path], kind: &[&str]) -> (i32, Vec<Value>) {
    let files: Vec<_> = files.iter().map(|path| path.to_str().unwrap()).collect();
    let output = bounded(&[&["data", "verify", "--json"], kind, &files[..]].concat());
    let told: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), told.as_array().unwrap().clone())
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path
}

fn every_file(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(every_file(&path));
        } else if path.extension().is_some_and(|ending| ending == "mmdb") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn is_sound<V>(ranges: &Ranges<V>) -> bool {
    let v4 = ranges.v4.iter().all(|r| r.0 <= r.1) && ranges.v4.is_sorted_by(|a, b| a.1 < b.0);
    v4 && ranges.v6.iter().all(|r| r.0 <= r.1) && ranges.v6.is_sorted_by(|a, b| a.1 < b.0)
}

/// The whole bad-data set of MaxMind's own tests: no file of it is a table of countries.
#[test]
fn each_bad_file_of_maxmind_is_refused_by_name() {
    let Some(shared) = support::shared("MaxMind's bad files") else { return };
    let files = every_file(&shared.join("data/maxmind-test/bad-data"));
    assert!(files.len() >= 21, "{}", files.len());
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    for kind in ["country", "asn", "providers"] {
        let (status, told) = verify(&files, &["--kind", kind]);
        assert_eq!((status, told.len()), (1, files.len()), "{kind}");
        for (file, report) in files.iter().zip(&told) {
            assert_eq!(report["name"], file.to_str().unwrap(), "{report}");
            assert!(!report["fault"].as_str().unwrap_or_default().is_empty(), "{kind}: {report}");
        }
    }
}

#[test]
fn an_mmdb_that_was_cut_at_any_byte_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<_> = (0..60).map(|at| (format!("11.{at}.0.0/16"), country("FR"))).collect();
    let rows: Vec<_> = rows.iter().map(|(net, record)| (net.as_str(), record.clone())).collect();
    let whole = mmdb(&rows, JUNE);
    let table = load_country(&write(dir.path(), "whole.mmdb", &whole)).unwrap();
    assert_eq!((table.ranges.v4.len(), table.info.rows), (1, 60));
    assert_eq!(table.info.as_of.unwrap().to_string(), "2026-06-01T00:00:00Z");
    for cut in 0..whole.len() {
        let path = write(dir.path(), "cut.mmdb", &whole[..cut]);
        let fault = load_country(&path).unwrap_err();
        assert!(fault.source.ends_with("cut.mmdb"), "at {cut}: {fault}");
    }
}

#[test]
fn a_bit_flip_in_an_mmdb_is_a_fault_or_a_sound_table() {
    let dir = tempfile::tempdir().unwrap();
    let whole = mmdb(&[("11.0.0.0/9", country("FR")), ("12.0.0.0/8", country("DE"))], JUNE);
    let mut refused = 0;
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let path = write(dir.path(), "flip.mmdb", &bytes);
        match load_country(&path) {
            Ok(table) => assert!(is_sound(&table.ranges), "bit {bit}"),
            Err(fault) => {
                assert!(fault.source.ends_with("flip.mmdb"), "bit {bit}: {fault}");
                refused += 1;
            }
        }
    }
    assert!(refused > whole.len() * 2, "{refused} of {}", whole.len() * 8);
}

/// The embedded tables and a gzip file, whose every byte is under a digest or a check sum.
#[test]
fn what_is_under_a_check_sum_is_refused_where_it_was_cut_at_any_kilobyte_or_a_bit_flipped() {
    let dir = tempfile::tempdir().unwrap();
    let tables = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/tables");
    let table = fs::read(tables.join("registrant.sgt")).unwrap();
    let text: String = (0..=255)
        .flat_map(|a| (0..40).map(move |b| format!("11.{a}.{b}.0,11.{a}.{b}.9,FR\n")))
        .collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, text.as_bytes()).unwrap();
    for (name, whole) in [("t.sgt", table), ("t.csv.gz", gzip.finish().unwrap())] {
        assert!(whole.len() > 20_000, "{name} {}", whole.len());
        let sound = load_country(&write(dir.path(), name, &whole)).unwrap().ranges;
        for cut in (0..whole.len()).step_by(1_024) {
            let cut_off = load_country(&write(dir.path(), name, &whole[..cut]));
            let fault = cut_off.map(|table| table.info.rows).unwrap_err();
            assert!(fault.source.ends_with(name), "{name} at {cut}: {fault}");
        }
        // From behind the head of a gzip file, where a name or a time may stand.
        for at in (10..whole.len()).step_by(1_009) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            match load_country(&write(dir.path(), name, &bytes)) {
                Err(fault) => assert!(fault.source.ends_with(name), "{name} at {at}: {fault}"),
                // Deflate may say the same in two ways.
                Ok(same) => assert!(same.ranges == sound && name.ends_with("gz"), "{name} at {at}"),
            }
        }
    }
}

/// Statistics say how many records they hold, so that none can be missing at their end.
#[test]
fn statistics_that_were_cut_at_any_kilobyte_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let records: String = (0..2_000)
        .map(|at| {
            format!("ripencc|FR|ipv4|11.{}.{}.0|256|20200101|allocated|a\n", at / 256, at % 256)
        })
        .collect();
    let text = format!(
        "2|ripencc|20260601|2000|19830101|20260601|+0200\nripencc|*|ipv4|*|2000|summary\n{records}"
    );
    let table = load_country(&write(dir.path(), "delegated.txt", &text)).unwrap();
    assert_eq!(table.info.as_of.unwrap().to_string(), "2026-06-01T00:00:00Z");
    for cut in (0..text.len()).step_by(1_024) {
        let fault = load_country(&write(dir.path(), "cut.txt", &text[..cut])).unwrap_err();
        assert!(fault.source.ends_with("cut.txt"), "at {cut}: {fault}");
    }
}

#[test]
fn each_fault_of_a_row_names_the_file_and_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let good = "192.0.2.0,192.0.2.255,FR\n";
    for (text, row, what) in [
        ("198.51.100.9,198.51.100.0,DE\n", 2, "ends before it begins"),
        ("192.0.2.8,192.0.2.9,DE\n", 2, "overlaps row 1"),
        ("192.0.1.0,192.0.2.0,FR\n", 2, "overlaps row 1"),
        ("192.0.2.0,192.0.2.255,DE\n", 2, "contradicts row 1"),
        ("198.51.100.0,2001:db8::,DE\n", 2, "one end is IPv4, the other IPv6"),
        ("198.51.100.0,198.51.100.256,DE\n", 2, ""),
        ("198.51.100.0,198.51.100.9,DEU\n", 2, ""),
        ("198.51.100.0,198.51.100.9,\"DE\n", 2, ""),
        ("198.51.100.0,198.51.100.9,\"D\"E\n", 2, ""),
        ("198.51.100.0,198.51.100.9\n", 2, "columns"),
        ("198.51.100.0;198.51.100.9;DE\n", 2, "columns"),
        ("\u{feff}198.51.100.0,198.51.100.9,DE\n", 2, ""),
        ("198.51.100.0,198.51.100.9,DE\r198.51.100.10,198.51.100.19,DE\n", 2, ""),
        ("198.51.100.0,198.51.100.9,D\u{1b}[31m\n", 2, ""),
    ] {
        let path = write(dir.path(), "rows.csv", format!("{good}{text}"));
        let (status, told) = verify(&[&path], &["--kind", "country"]);
        let fault = told[0]["fault"].as_str().unwrap_or_default();
        assert_eq!(status, 1, "{text:?}");
        assert!(
            fault.starts_with(&format!("row {row}: ")) && fault.contains(what),
            "{text:?} {fault}"
        );
        assert!(told[0]["name"].as_str().unwrap().ends_with("rows.csv"), "{text:?}");
        assert!(!fault.contains('\u{1b}'), "{fault:?}");
    }
    // Prefixes have no bits behind their length.
    for (name, text, row) in [
        ("a.csv", "network,country_code\n192.0.2.0/24,FR\n198.51.100.9/24,DE\n", 3),
        ("b.csv", "network,country_code\n2001:db8::1/32,FR\n", 2),
        ("cloudflare.txt", "198.51.100.0/24\n203.0.113.77/24\n", 2),
    ] {
        let path = write(dir.path(), name, text);
        let kind = if name.ends_with(".txt") { "providers" } else { "country" };
        let (status, told) = verify(&[&path], &["--kind", kind]);
        let fault = told[0]["fault"].as_str().unwrap_or_default();
        assert_eq!(status, 1, "{text}");
        assert!(
            fault.starts_with(&format!("row {row}: ")) && fault.contains("/24\"")
                || fault.contains("/32"),
            "{fault}"
        );
    }
}

#[test]
fn a_byte_order_mark_crlf_and_quotes_are_no_fault_where_they_belong() {
    let dir = tempfile::tempdir().unwrap();
    let plain = "192.0.2.0,192.0.2.255,FR\n2001:db8::,2001:db8::ffff,DE\n";
    let dressed =
        "\u{feff}\"192.0.2.0\",\"192.0.2.255\",\"FR\"\r\n2001:db8::,2001:db8::ffff,DE\r\n";
    let load = |text: &str| load_country(&write(dir.path(), "t.csv", text)).unwrap().ranges;
    assert_eq!(load(plain), load(dressed));
    assert_eq!(load(plain), load(plain.trim_end()), "the last row needs no end");
    let wide: Vec<u8> = plain.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let path = write(dir.path(), "wide.csv", [&[0xff, 0xfe][..], &wide].concat());
    assert!(load_country(&path).unwrap_err().said().contains("UTF-16"));
}

/// Sparse files of zeros, from one that could be read to one that never could: none is read whole.
#[test]
fn zeros_of_any_length_are_refused_within_bounds() {
    let dir = tempfile::tempdir().unwrap();
    for (name, length) in [("little.csv", 4_096), ("most.mmdb", 1 << 30), ("ten.mmdb", 10 << 30)] {
        let path = dir.path().join(name);
        fs::File::create(&path).unwrap().set_len(length).unwrap();
        let (status, told) = verify(&[&path], &[]);
        assert_eq!(status, 1, "{name}");
        let fault = told[0]["fault"].as_str().unwrap();
        let why = if length > 1 << 30 { "larger than" } else { "in no known form" };
        assert!(fault.contains(why), "{name}: {fault}");
    }
}

#[test]
fn no_command_waits_for_a_pipe_or_reads_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.csv");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let folder = dir.path().join("folder.csv");
    fs::create_dir(&folder).unwrap();
    let out = dir.path().join("out.sgp").to_str().unwrap().to_owned();
    for path in [pipe.to_str().unwrap(), folder.to_str().unwrap()] {
        let policy =
            format!("schema = 1\n[policy]\npermit = ['FR']\n[data]\ncountry = ['{path}']\n");
        let policy = write(dir.path(), "policy.toml", policy);
        let policy = policy.to_str().unwrap();
        for (arguments, status) in [
            (&["data", "verify", path][..], 1),
            (&["data", "list", "--config", policy], 1),
            (&["data", "diff", path, path], 2),
            (&["data", "diff", "embedded", path], 2),
            (&["data", "build", "--pack", &out, path], 1),
            (&["data", "build", "--pack", &out, "--sign", path, "country=embedded"], 2),
            (&["check", "--config", policy], 1),
            (&["explain", "--config", policy, "--to", "11.0.0.1"], 2),
            (&["run", "--config", policy], 2),
        ] {
            let output = bounded(arguments);
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert_eq!(output.status.code(), Some(status), "{arguments:?} {said}");
            assert!(said.contains("not a regular file") && said.contains(path), "{said}");
        }
    }
    assert!(!Path::new(&out).exists());
}

/// Whatever the bytes, each reader says no or gives ranges in order; none ends the process.
#[test]
fn what_was_drawn_at_random_is_refused_by_every_reader() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = 7_u64;
    for turn in 0..300 {
        let mut bytes = Vec::new();
        for _ in 0..(turn * 7) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bytes.push((state >> 33) as u8);
        }
        let path = write(dir.path(), "noise", &bytes);
        assert!(load_country(&path).is_err() && load_asn(&path).is_err(), "{turn}");
        assert!(load_provider(&path).is_err(), "{turn}");
    }
}

/// Long work is told of on stderr, so that what a program reads on stdout is the answer alone.
#[test]
fn a_long_file_is_told_of_on_stderr_and_the_answer_is_all_of_stdout() {
    let dir = tempfile::tempdir().unwrap();
    let row = |at: usize| format!("11.{}.{}.0,11.{0}.{1}.255,FR\n", at / 256, at % 256);
    let long: String = (0..50_000).map(row).collect();
    assert!(long.len() > 1 << 20);
    let (long, short) =
        (write(dir.path(), "long.csv", long), write(dir.path(), "short.csv", row(0)));
    let output =
        bounded(&["data", "verify", "--json", long.to_str().unwrap(), short.to_str().unwrap()]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told.as_array().unwrap().len(), 2);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("reading") && said.contains("long.csv, 2 MiB"), "{said}");
    assert!(!said.contains('\u{1b}'), "no terminal, no bar: {said:?}");
}
