//! `cargo xtask truth`: what a gateway without files of its own says of the addresses that providers
//! publish, beside what they publish. Each figure is a share of addresses.

mod services;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use jiff::Timestamp;
use schengate::control::compile::Compiler;
use schengate::control::config;
use schengate::control::data::{
    self, Facts, ProviderRow, RegionPlace, Sources, embedded_asn, embedded_country,
    embedded_dissent, embedded_providers, load_provider, zone_rows,
};
use schengate::identify::Protocol;
use schengate::policy::{Action, Claim, Country, Policy, Question, Transport};

use self::services::{Services, census};
use crate::Done;

/// Arguments of `truth`.
#[derive(Debug, clap::Args)]
pub(crate) struct Truth {
    /// Folder of comparison material; else SCHENGATE_SHARED, else ../shared beside the repository
    #[arg(long, value_name = "DIR")]
    shared: Option<PathBuf>,
    /// A census of prefixes that answer from many places, one a line: how many are never permitted
    #[arg(long, value_name = "FILE")]
    census: Vec<PathBuf>,
    /// More lists of providers, in any form that `[data] providers` reads
    #[arg(value_name = "FILE")]
    lists: Vec<PathBuf>,
}

/// Default policy: what may be held against "permitted and is not".
const POLICY: &str =
    "schema = 1\n[policy]\nmode = \"enforce\"\npermit = [\"eea\", \"gdpr-adequacy\"]\n";

/// A list beside the repository: its name, its files, and the least share that is told right, in
/// per cent, of IPv4 and of IPv6. A build that tells less has lost something.
struct List {
    name: &'static str,
    files: &'static [&'static str],
    least: [f64; 2],
    /// The same where the gateway is given the list itself.
    given: Option<[f64; 2]>,
}

const LISTS: [List; 8] = [
    List {
        name: "aws 2026-08-22",
        files: &["aws-ip-ranges-2026-08-22.json.gz"],
        least: [99.5, 99.5],
        given: Some([99.9, 99.9]),
    },
    List {
        name: "azure 2025-11-06",
        files: &["azure-ServiceTags_Public-2025-11-06.json.gz"],
        least: [99.9, 99.9],
        given: None,
    },
    List {
        name: "gcp 2025-07-24",
        files: &["gcp-cloud-2025-07-24.json.gz"],
        least: [99.9, 99.9],
        given: None,
    },
    List {
        name: "oci 2025-07-21",
        files: &["oci-public_ip_ranges-2025-07-21.json.gz"],
        least: [99.9, 0.0],
        given: None,
    },
    List {
        name: "digitalocean 2025-07",
        files: &["digitalocean-geofeed-2025-07.csv"],
        least: [99.9, 99.9],
        given: None,
    },
    List {
        name: "linode 2025-07-24",
        files: &["linode-geofeed-2025-07-24.csv"],
        least: [99.8, 99.9],
        given: Some([99.9, 99.9]),
    },
    List {
        name: "cloudflare",
        files: &["cloudflare-ips-v4.txt", "cloudflare-ips-v6.txt"],
        least: [100.0, 100.0],
        given: None,
    },
    List {
        name: "fastly 2025-07",
        files: &["fastly-public-ip-list-2025-07.json"],
        least: [100.0, 100.0],
        given: None,
    },
];

/// Prints the table; fails where a list of [`LISTS`] is told worse than it says.
pub(crate) fn run(arguments: &Truth) -> Done {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared"));
    let shared = arguments.shared.clone();
    let shared = shared.or_else(|| std::env::var_os("SCHENGATE_SHARED").map(PathBuf::from));
    let folder = shared.unwrap_or_else(beside).join("data/cloud/original");
    let gate = Gate::new(&[])?;
    let mut worse = Vec::new();
    let mut given = Vec::new();
    println!("{HEAD}");
    for list in &LISTS {
        let files = list.files(&folder);
        if let Some(absent) = files.iter().find(|file| !file.is_file()) {
            // In CI the material is there, and a comparison that nobody makes proves nothing.
            if std::env::var_os("SCHENGATE_CI").is_some() {
                worse.push(format!("{}: there is no {}", list.name, absent.display()));
            }
            println!("LEFT OUT: {}: there is no {}", list.name, absent.display());
            continue;
        }
        given.extend(list.given.map(|least| (list, least)));
        list.compare(list.name, list.least, &gate.measure(&files)?, &mut worse);
    }
    if !given.is_empty() {
        let files: Vec<_> = given.iter().flat_map(|(list, _)| list.files(&folder)).collect();
        let gate = Gate::new(&files)?;
        for (list, least) in given {
            let shares = gate.measure(&list.files(&folder))?;
            list.compare(&format!("{}, given", list.name), least, &shares, &mut worse);
        }
    }
    for file in &arguments.lists {
        let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
        for share in gate.measure(std::slice::from_ref(file))? {
            println!("{}", share.line(&name));
        }
    }
    let facts = gate.facts();
    facts.iter().for_each(|share| println!("{}", share.line("anycast.csv")));
    if facts.iter().any(|share| share.right() + share.placed() < 100.0) {
        worse.push("anycast.csv: a prefix is in a country that nobody publishes".to_owned());
    }
    let services = Services::ask(&gate)?;
    println!("{}", services.lines());
    worse.extend(services.opposite().iter().map(|name| format!("{name}: IPv4 and IPv6 differ")));
    for file in &arguments.census {
        let text = std::fs::read_to_string(file)?;
        let families =
            census(&gate, &text).map_err(|what| format!("{}: {what}", file.display()))?;
        for (family, (all, through)) in [4, 6].into_iter().zip(families) {
            let never = 100.0 * (all - through.len()) as f64 / all.max(1) as f64;
            println!(
                "{} IPv{family}: {never:.2} % of {all} prefixes never permitted",
                file.display()
            );
            through.iter().for_each(|net| println!("  permitted in part: {net}"));
        }
    }
    if worse.is_empty() { Ok(()) } else { Err(worse.join("; ").into()) }
}

impl List {
    fn files(&self, folder: &Path) -> Vec<PathBuf> {
        self.files.iter().map(|file| folder.join(file)).collect()
    }

    /// Prints both families, and says which of them is told worse than it was.
    fn compare(&self, name: &str, least: [f64; 2], shares: &[Share; 2], worse: &mut Vec<String>) {
        for (share, least) in shares.iter().zip(least) {
            println!("{}", share.line(name));
            if share.all > 0.0 && share.right() < least {
                worse.push(format!("{name} IPv{}: less than {least} %", share.family));
            }
        }
    }
}

const HEAD: &str = "\
list                 family          addresses   right    some   wrong  unsafe unknown  nowhere
  some: the published country among several; unsafe: forwarded, and it is not permitted;
  nowhere: said to answer from many places, and a region is published";

/// Where a list says that an address is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Published {
    countries: HashSet<Country>,
    everywhere: bool,
}

/// What came of one family of a list, in addresses.
struct Share {
    family: u8,
    all: f64,
    right: f64,
    some: f64,
    wrong: f64,
    refused_nowhere: f64,
    unknown: f64,
    unsafely: f64,
    placed: f64,
}

impl Share {
    const fn new(family: u8) -> Self {
        let (all, right, some, wrong) = (0.0, 0.0, 0.0, 0.0);
        let (refused_nowhere, unknown, unsafely, placed) = (0.0, 0.0, 0.0, 0.0);
        Self { family, all, right, some, wrong, refused_nowhere, unknown, unsafely, placed }
    }

    fn of(&self, part: f64) -> f64 {
        if self.all > 0.0 { 100.0 * part / self.all } else { 0.0 }
    }

    fn right(&self) -> f64 {
        self.of(self.right)
    }

    /// Of facts: in a region that a provider publishes, which outranks them.
    fn placed(&self) -> f64 {
        self.of(self.placed)
    }

    fn line(&self, name: &str) -> String {
        let parts = [self.some, self.wrong, self.unsafely, self.unknown, self.refused_nowhere];
        let parts = parts.map(|part| format!("{:>8.3}", self.of(part))).concat();
        format!("{name:<20} IPv{} {:>19.0} {:>7.3}{parts}", self.family, self.all, self.right())
    }

    fn count(&mut self, size: f64, published: &Published, gate: &Gate, address: IpAddr) {
        let said = gate.policy.address_info(address);
        let codes: HashSet<Country> = said.codes.iter().collect();
        let agree = if published.everywhere {
            said.anycast && codes.is_empty()
        } else {
            !said.anycast && codes == published.countries
        };
        self.all += size;
        let part = match () {
            () if agree => &mut self.right,
            () if said.anycast && codes.is_empty() => &mut self.refused_nowhere,
            () if codes.is_empty() => &mut self.unknown,
            () if !published.everywhere && codes.is_superset(&published.countries) => {
                &mut self.some
            }
            () => &mut self.wrong,
        };
        *part += size;
        let permitted =
            !published.everywhere && published.countries.iter().all(|c| gate.permit.contains(c));
        if !permitted && gate.forwards(address) {
            self.unsafely += size;
        }
    }
}

/// A gateway, and every address at which what it says without files of its own may change.
struct Gate {
    policy: Policy,
    permit: HashSet<Country>,
    edges: [Vec<u128>; 2],
}

impl Gate {
    /// A gateway that is given `lists` of providers before the embedded ones.
    fn new(lists: &[PathBuf]) -> Result<Self, Box<dyn std::error::Error>> {
        let lists = lists.iter().map(std::path::absolute).collect::<Result<Vec<_>, _>>()?;
        let lists: String =
            lists.iter().map(|list| format!("{:?}, ", list.display().to_string())).collect();
        let text = format!("{POLICY}[data]\nproviders = [{lists}\"embedded\"]\n");
        let loaded = config::parse(&text, None).map_err(|faults| faults.to_string())?;
        let sources = data::load(&loaded.config.data).map_err(|faults| format!("{faults:?}"))?;
        let now = Timestamp::now();
        let policy = compiled(loaded.config, sources, now);
        let holds = |row: &data::ZoneRow| {
            let named = row.set == "eea" || row.set == "gdpr-adequacy";
            named
                && !row.partial
                && row.since.is_none_or(|since| since <= now)
                && row.until.is_none_or(|until| now < until)
        };
        let permit = zone_rows().filter(holds).filter_map(|row| row.country).collect();
        Ok(Self { policy, permit, edges: edges()? })
    }

    /// Whether the default policy lets bytes go there, on the record or not.
    fn forwards(&self, address: IpAddr) -> bool {
        let question = Question {
            client: None,
            destination: (address, 443).into(),
            transport: Transport::Tcp,
            protocol: Protocol::Tls,
            name: Claim::Unread,
            ech: false,
        };
        self.policy.decide(&question).action() != Action::Block
    }

    /// Every address of a list, by the longest prefix.
    fn measure(&self, files: &[PathBuf]) -> Result<[Share; 2], Box<dyn std::error::Error>> {
        let mut published: HashMap<IpNet, Published> = HashMap::new();
        for file in files {
            for row in load_provider(Path::new(file))?.rows {
                if let Some(place) = place(&row) {
                    let entry = published.entry(row.net).or_default();
                    match place {
                        RegionPlace::Country(country) => {
                            entry.countries.insert(country);
                        }
                        RegionPlace::Anycast => entry.everywhere = true,
                        RegionPlace::Union | RegionPlace::Several | RegionPlace::Unsourced => {}
                    }
                }
            }
        }
        published.retain(|_, at| at.everywhere || !at.countries.is_empty());
        Ok([4, 6].map(|family| {
            let mut share = Share::new(family);
            self.walk(family, &published, |size, net, address| {
                if let Some(published) = published.get(&net) {
                    share.count(size, published, self, address);
                }
            });
            share
        }))
    }

    /// Every address of `anycast.csv`; in a region that a provider publishes it may be placed.
    fn facts(&self) -> [Share; 2] {
        let everywhere = Published { everywhere: true, ..Published::default() };
        let facts = Facts::built_in().anycast.iter();
        let nets: HashMap<IpNet, Published> = facts.map(|&net| (net, everywhere.clone())).collect();
        [4, 6].map(|family| {
            let mut share = Share::new(family);
            self.walk(family, &nets, |size, _, address| {
                let said = self.policy.address_info(address);
                if said.region.is_some() && !said.anycast {
                    share.all += size;
                    share.placed += size;
                } else {
                    share.count(size, &everywhere, self, address);
                }
            });
            share
        })
    }

    /// Tells of each piece inside the prefixes of a family, of which one thing is said throughout,
    /// its size, the longest prefix around it and its first address.
    fn walk(
        &self,
        family: u8,
        nets: &HashMap<IpNet, Published>,
        mut piece: impl FnMut(f64, IpNet, IpAddr),
    ) {
        let all = &self.edges[usize::from(family == 6)];
        let mut spans: Vec<(u128, u128)> =
            nets.keys().filter(|net| net.addr().is_ipv4() == (family == 4)).map(span).collect();
        let inner: Vec<u128> = spans.iter().flat_map(|&(first, last)| [first, last + 1]).collect();
        spans.sort_unstable();
        let mut done = 0;
        for (first, last) in spans {
            let first = first.max(done);
            if first > last {
                continue;
            }
            let within = |edges: &[u128]| -> Vec<u128> {
                let from = edges.partition_point(|&edge| edge <= first);
                edges.iter().skip(from).take_while(|&&edge| edge <= last).copied().collect()
            };
            let own = inner.iter().copied().filter(|&edge| first < edge && edge <= last);
            let mut starts: Vec<u128> = std::iter::once(first).chain(own).collect();
            starts.extend(within(all));
            starts.sort_unstable();
            starts.dedup();
            for (at, &start) in starts.iter().enumerate() {
                let end = starts.get(at + 1).copied().unwrap_or(last + 1);
                let address = address(family, start);
                let around = std::iter::successors(Some(IpNet::from(address)), IpNet::supernet);
                if let Some(net) = around.into_iter().find(|net| nets.contains_key(net)) {
                    piece((end - start) as f64, net, address);
                }
            }
            done = last + 1;
        }
    }
}

fn compiled(config: config::Config, sources: Sources, now: Timestamp) -> Policy {
    Compiler::new(config, sources, POLICY, Vec::new(), now).policy_at(now)
}

/// Where a row says that it is; `None` where it says nothing.
fn place(row: &ProviderRow) -> Option<RegionPlace> {
    let region = || {
        let mut regions = Facts::built_in().regions.iter();
        regions.find(|fact| fact.provider == row.provider && fact.region == row.region)
    };
    match row.country {
        _ if row.anycast => Some(RegionPlace::Anycast),
        Some(country) => Some(RegionPlace::Country(country)),
        None if row.region.is_empty() => None,
        None => region().map(|fact| fact.place),
    }
}

/// Where any embedded table or fact begins or ends, ascending; IPv4, IPv6.
fn edges() -> Result<[Vec<u128>; 2], data::DataFault> {
    let mut edges = [Vec::new(), Vec::new()];
    for table in [embedded_country()?, embedded_dissent()?] {
        let [v4, v6] = &mut edges;
        v4.extend(table.ranges.v4.iter().flat_map(|r| [u128::from(r.0), u128::from(r.1) + 1]));
        v6.extend(table.ranges.v6.iter().flat_map(|r| [r.0, r.1.saturating_add(1)]));
    }
    let asn = embedded_asn()?.ranges;
    let [v4, v6] = &mut edges;
    v4.extend(asn.v4.iter().flat_map(|r| [u128::from(r.0), u128::from(r.1) + 1]));
    v6.extend(asn.v6.iter().flat_map(|r| [r.0, r.1.saturating_add(1)]));
    let rows = embedded_providers()?.rows;
    let nets = rows.iter().map(|row| &row.net).chain(&Facts::built_in().anycast);
    for net in nets {
        let (first, last) = span(net);
        edges[usize::from(net.addr().is_ipv6())].extend([first, last.saturating_add(1)]);
    }
    for edges in &mut edges {
        edges.sort_unstable();
        edges.dedup();
    }
    Ok(edges)
}

fn span(net: &IpNet) -> (u128, u128) {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    (number(net.network()), number(net.broadcast()))
}

fn address(family: u8, bits: u128) -> IpAddr {
    match family {
        4 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX))),
        _ => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_address_counts_by_the_longest_prefix_and_a_wrong_list_is_told() {
        let json = r#"{"createDate": "2026-09-16-12-00-00", "ipv6_prefixes": [], "prefixes": [
            {"ip_prefix": "52.95.154.0/24", "region": "eu-west-3", "service": "AMAZON",
             "network_border_group": "eu-west-3"},
            {"ip_prefix": "52.95.154.128/25", "region": "us-east-1", "service": "AMAZON",
             "network_border_group": "us-east-1"},
            {"ip_prefix": "8.8.8.0/24", "region": "GLOBAL", "service": "AMAZON",
             "network_border_group": "GLOBAL"}]}"#;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(json.as_bytes()).unwrap();
        let gate = Gate::new(&[]).unwrap();
        let [v4, v6] = gate.measure(&[file.path().to_owned()]).unwrap();
        assert_eq!((v4.all, v4.right, v4.wrong, v4.unsafely), (512.0, 384.0, 128.0, 128.0));
        assert_eq!((v6.all, v6.right()), (0.0, 0.0));
    }

    #[test]
    fn no_list_is_told_worse_than_it_was() {
        let arguments = Truth { shared: None, census: Vec::new(), lists: Vec::new() };
        run(&arguments).unwrap_or_else(|worse| panic!("{worse}"));
    }
}
