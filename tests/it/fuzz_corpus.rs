//! The seeds of the fuzz targets, through the functions that the targets run.

use std::fs;
use std::path::{Path, PathBuf};

#[allow(
    unreachable_pub,
    clippy::duplicate_mod,
    reason = "it is a library where the fuzzer builds it, with modules of its own"
)]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// A target's name, its function and its seeds: those made by hand, also damaged, and in `kept` what
/// the fuzzer found to reach more.
fn replay(target: &str, check: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let made = files(&seeds);
    assert!(!made.is_empty(), "{} holds no seed", seeds.display());
    for path in made {
        let seed = fs::read(&path).unwrap();
        println!("{}", path.display());
        check(&seed);
        // Damage at each of a few places, so that a seed is more than one case.
        for at in (0..seed.len()).step_by(seed.len() / 40 + 1) {
            let mut damaged = seed.clone();
            damaged[at] ^= 0x5b;
            check(&damaged);
            check(&seed[..at]);
        }
    }
    let kept = seeds.join("kept");
    if kept.is_dir() {
        for path in files(&kept) {
            println!("{}", path.display());
            check(&fs::read(&path).unwrap());
        }
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).collect()
}

#[test]
fn seeds_of_tls() {
    replay("tls", targets::tls);
}

#[test]
fn seeds_of_second() {
    replay("second", targets::second);
}

#[test]
fn seeds_of_starttls() {
    replay("starttls", targets::starttls);
}

#[test]
fn seeds_of_http() {
    replay("http", targets::http);
}

#[test]
fn seeds_of_connect_target() {
    replay("connect_target", targets::connect_target);
}

#[test]
fn seeds_of_socks() {
    replay("socks", targets::socks);
}

#[test]
fn seeds_of_quic() {
    replay("quic", targets::quic);
}

#[test]
fn seeds_of_dtls() {
    replay("dtls", targets::dtls);
}

#[test]
fn seeds_of_pcap() {
    replay("pcap", targets::pcap);
}

#[test]
fn seeds_of_lane() {
    replay("lane", targets::lane);
}

#[test]
fn seeds_of_mmdb() {
    replay("mmdb", targets::mmdb);
}

#[test]
fn seeds_of_table() {
    replay("table", targets::table);
}

#[test]
fn seeds_of_pack() {
    replay("pack", targets::pack);
}

#[test]
fn seeds_of_policy_file() {
    replay("policy_file", targets::policy_file);
}
