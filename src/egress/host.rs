//! Reads what this host says about names, `/etc/resolv.conf` and `/etc/hosts`, again when they change.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::servers::Servers;
use crate::broker::{self, Feed, Followed, News};
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
    files: Files,
    state: Mutex<State>,
}

/// Where the two files come from, the one with the name servers first.
#[derive(Debug)]
enum Files {
    /// They are opened here.
    Here(Box<Mutex<[Followed; 2]>>),
    /// Another process opens them, where this one may not.
    Told(Feed),
}

#[derive(Debug)]
struct State {
    looked: Option<Instant>,
    servers: Arc<Servers>,
    names: Arc<Hosts>,
}

impl Host {
    /// Of the files in these places.
    pub(super) fn new(resolv: impl AsRef<Path>, hosts: impl AsRef<Path>) -> Self {
        let files = [Followed::new(resolv.as_ref()), Followed::new(hosts.as_ref())];
        Self::of(Files::Here(Box::new(Mutex::new(files))))
    }

    /// Of the files that another process opens.
    pub(super) fn told(feed: Feed) -> Self {
        Self::of(Files::Told(feed))
    }

    fn of(files: Files) -> Self {
        let state = State {
            looked: None,
            servers: Arc::new(Servers::new(Vec::new(), None)),
            names: Arc::default(),
        };
        let host = Self { files, state: Mutex::new(state) };
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
            for (place, text) in self.files.news(is_first) {
                state.take(place, text, is_first);
            }
        }
        (Arc::clone(&state.servers), Arc::clone(&state.names))
    }
}

impl Files {
    /// What is new of them. Waits at the first time alone.
    fn news(&self, is_first: bool) -> Vec<News> {
        match self {
            Self::Here(files) => {
                let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
                let read = |file: io::Result<File>| {
                    let mut text = Vec::new();
                    file?.read_to_end(&mut text)?;
                    Ok(text)
                };
                let news = files.iter_mut().enumerate();
                news.filter_map(|(place, file)| Some((place, read(file.look()?)))).collect()
            }
            Self::Told(feed) => {
                let news = if is_first { feed.first() } else { feed.news() };
                news.unwrap_or_else(|fault| {
                    tracing::error!(%fault, "/etc/resolv.conf and /etc/hosts are not followed");
                    Vec::new()
                })
            }
        }
    }
}

impl State {
    /// What a file says now. One that cannot be read changes nothing.
    fn take(&mut self, place: usize, text: io::Result<Vec<u8>>, is_first: bool) {
        let path = if place == 0 { broker::RESOLV } else { broker::HOSTS };
        let text = match text {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(fault) => {
                tracing::warn!(path, %fault, "cannot be read: what was read of it before holds");
                return;
            }
        };
        if place == 0 {
            let servers = name_servers(&text);
            if servers.is_empty() {
                tracing::warn!("no name server in /etc/resolv.conf: no name has an address");
            } else if !is_first {
                let named: Vec<_> = servers.iter().map(|it| it.at.to_string()).collect();
                let named = named.join(" ");
                tracing::info!(servers = named, "/etc/resolv.conf is another one: taken up");
            }
            self.servers = Arc::new(Servers::new(servers, None));
        } else {
            self.names = Arc::new(names(&text));
            if !is_first {
                let names = self.names.len();
                tracing::info!(names, "/etc/hosts is another one: taken up");
            }
        }
    }
}

/// The addresses of the name servers that this host has now.
#[must_use]
pub fn host_name_servers() -> Vec<IpAddr> {
    let text = fs::read(broker::RESOLV).unwrap_or_default();
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
