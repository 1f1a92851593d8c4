//! Reads what this host says about names, `/etc/resolv.conf` and `/etc/hosts`, again when they change.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::servers::Servers;
use crate::identify::HostName;
use crate::settings::Resolver as Server;

/// Time between two looks whether a file is another one, as a name is asked about.
const LOOK: Duration = Duration::from_secs(1);

/// Port on which name servers are asked.
const PORT: u16 = 53;

/// The addresses of names that stand in `/etc/hosts`.
pub(super) type Hosts = HashMap<Box<str>, Vec<IpAddr>>;

/// The host's own resolvers and names.
#[derive(Debug)]
pub(super) struct Host {
    resolv: PathBuf,
    hosts: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    looked: Option<Instant>,
    resolv: Option<Stamp>,
    hosts: Option<Stamp>,
    servers: Arc<Servers>,
    names: Arc<Hosts>,
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp([i64; 5], u64);

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let data = fs::metadata(path)?;
        let times = [data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()];
        let [mtime, mtime_ns, ctime, ctime_ns] = times;
        let size = i64::try_from(data.size()).unwrap_or(i64::MAX);
        Ok(Self([mtime, mtime_ns, ctime, ctime_ns, size], data.ino()))
    }
}

impl Host {
    /// Of the files in these places.
    pub(super) fn new(resolv: impl Into<PathBuf>, hosts: impl Into<PathBuf>) -> Self {
        let state = State {
            looked: None,
            resolv: None,
            hosts: None,
            servers: Arc::new(Servers::new(Vec::new(), None)),
            names: Arc::default(),
        };
        let host = Self { resolv: resolv.into(), hosts: hosts.into(), state: Mutex::new(state) };
        host.now();
        host
    }

    /// The name servers and the names, as the files are now.
    pub(super) fn now(&self) -> (Arc<Servers>, Arc<Hosts>) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.is_none_or(|looked| now.duration_since(looked) >= LOOK) {
            let is_first = state.looked.is_none();
            state.looked = Some(now);
            if let Some(text) = read_again(&self.resolv, &mut state.resolv, is_first) {
                let servers = name_servers(&text);
                if servers.is_empty() {
                    tracing::warn!("no name server in /etc/resolv.conf: no name has an address");
                } else if !is_first {
                    let named: Vec<_> = servers.iter().map(|it| it.at.to_string()).collect();
                    let named = named.join(" ");
                    tracing::info!(servers = named, "/etc/resolv.conf is another one: taken up");
                }
                state.servers = Arc::new(Servers::new(servers, None));
            }
            if let Some(text) = read_again(&self.hosts, &mut state.hosts, is_first) {
                state.names = Arc::new(names(&text));
                if !is_first {
                    let names = state.names.len();
                    tracing::info!(names, "/etc/hosts is another one: taken up");
                }
            }
        }
        (Arc::clone(&state.servers), Arc::clone(&state.names))
    }
}

/// The file's text, where it is not the one of before. What cannot be read changes nothing.
fn read_again(path: &Path, stamp: &mut Option<Stamp>, is_first: bool) -> Option<String> {
    // Before the text: what is written meanwhile is seen at the next look.
    let read = Stamp::of(path).and_then(|now| {
        let is_new = *stamp != Some(now);
        let text = if is_new { Some(fs::read(path)?) } else { None };
        Ok((now, text))
    });
    match read {
        Ok((now, text)) => {
            *stamp = Some(now);
            text.map(|text| String::from_utf8_lossy(&text).into_owned())
        }
        Err(fault) => {
            if is_first || stamp.take().is_some() {
                let path = path.display();
                tracing::warn!(%path, %fault, "cannot be read: what was read of it before holds");
            }
            None
        }
    }
}

/// The addresses of the name servers that this host has now.
#[must_use]
pub fn host_name_servers() -> Vec<IpAddr> {
    let text = fs::read("/etc/resolv.conf").unwrap_or_default();
    name_servers(&String::from_utf8_lossy(&text)).iter().map(|server| server.at.ip()).collect()
}

/// The `nameserver` lines (resolv.conf(5)).
fn name_servers(text: &str) -> Vec<Server> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some("nameserver"), Some(word)) = (words.next(), words.next()) else { continue };
        // An address of a link has its interface behind it, by its number.
        let at = word.parse().map(|ip: IpAddr| SocketAddr::new(ip, PORT));
        match at.or_else(|_| format!("[{word}]:{PORT}").parse()) {
            Ok(at) => servers.push(Server { at, tls: None }),
            Err(_) => tracing::warn!(word, "no address of a name server in /etc/resolv.conf"),
        }
    }
    servers
}

/// An address and its names a line (hosts(5)).
fn names(text: &str) -> Hosts {
    let mut hosts = Hosts::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
        let named = words.filter_map(|word| HostName::parse(word.as_bytes()).ok());
        for name in named {
            let addresses = hosts.entry(name.as_str().into()).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_read_as_the_host_reads_them() {
        let text = "# x\nsearch a.example\nnameserver 192.0.2.53\nnameserver\t2001:db8::53\n\
                    nameserver fe80::1%2\nnameserver dns.example\n;nameserver 192.0.2.54\n";
        let at: Vec<_> = name_servers(text).iter().map(|it| it.at.to_string()).collect();
        assert_eq!(at, ["192.0.2.53:53", "[2001:db8::53]:53", "[fe80::1%2]:53"]);
        let hosts = names("192.0.2.1 A.example b # c\n2001:db8::1 a.example\nx y\n192.0.2.1 b\n");
        let of = |name: &str| hosts.get(name).map(|all| all.iter().map(ToString::to_string));
        assert_eq!(of("a.example").unwrap().collect::<Vec<_>>(), ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(of("b").unwrap().count(), 1);
        assert!(of("c").is_none() && of("y").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a07_a_file_that_changes_is_taken_up_and_one_that_is_gone_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let [resolv, hosts] = ["resolv.conf", "hosts"].map(|name| directory.path().join(name));
        fs::write(&resolv, "nameserver 192.0.2.53\n").unwrap();
        fs::write(&hosts, "192.0.2.1 a.example\n").unwrap();
        let host = Host::new(&resolv, &hosts);
        let (first, names) = host.now();
        assert!(names.contains_key("a.example"));
        // Written in place, as DHCP clients do, and renamed into it.
        fs::write(&resolv, "nameserver 192.0.2.54\nnameserver 192.0.2.55\n").unwrap();
        let other = directory.path().join("hosts.new");
        fs::write(&other, "192.0.2.2 b.example\n").unwrap();
        fs::rename(&other, &hosts).unwrap();
        assert!(Arc::ptr_eq(&first, &host.now().0), "not at each question");
        tokio::time::advance(LOOK).await;
        let (second, names) = host.now();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(names.contains_key("b.example") && !names.contains_key("a.example"));
        fs::remove_file(&resolv).unwrap();
        tokio::time::advance(LOOK).await;
        assert!(Arc::ptr_eq(&second, &host.now().0));
    }
}
