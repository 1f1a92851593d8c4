//! What keeps captured packets from the listeners although every rule stands: switches of the kernel,
//! and interfaces that are named and bring nothing. A probe sees what is so for every interface; these
//! are seen here, each with the command that mends it.
//!
//! `tcp_rfc1337` is none of them: a SYN goes to its listener whoever waits (`rules`), and a client that
//! uses a port again is served.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::family::Family;
use super::finding::{Check, Finding};
use super::matches::NEAR;
use super::model::{Capture, Target};
use crate::control::config::ListenMode;
use crate::sys::{self, Link};

/// The switches of the network.
const SWITCHES: &str = "/proc/sys/net";

/// Why it is not seen whether something is in the way.
#[derive(Debug, thiserror::Error)]
enum Unseen<'a> {
    /// Nobody lets us look at the rules.
    #[error("the rules, which name the interfaces, are not seen")]
    Rules,
    /// The kernel does not tell its interfaces.
    #[error("interfaces: {0}")]
    Interfaces(&'a io::Error),
    /// A switch that is there cannot be read.
    #[error("{}: {source}", .path.display())]
    Switch {
        /// Its file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It depends on the interface.
    #[error(
        "whether clients come in by the bridge {bridge}, whose packets br_netfilter shows to the \
         rules too early (`{mend}`): name the interface"
    )]
    Unnamed {
        /// The bridge.
        bridge: String,
        /// The command that mends it.
        mend: String,
    },
}

/// What is in the way, in words, if anything is.
type InTheWay<'a> = Result<Option<String>, Unseen<'a>>;

/// What is captured, as far as it decides what can be in the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Delivery {
    /// The families whose packets are delivered by mark.
    pub(super) routed: Vec<Family>,
    /// Those whose packets `tproxy` hands to a socket.
    pub(super) handed: Vec<Family>,
    /// The interfaces by which clients come in, empty where every one counts; `None` where they are
    /// not known.
    pub(super) interfaces: Option<Vec<String>>,
    /// Marked packets come in by the others as well.
    pub(super) answers: bool,
}

impl Delivery {
    /// What can be in the way of what is captured.
    pub(super) fn of(capture: &Capture) -> Self {
        let is_handed = |target: &Option<Target>| {
            target.is_some_and(|target| target.mode == ListenMode::Tproxy)
        };
        let captured = Family::ALL.into_iter().zip(capture.tcp.iter().zip(&capture.udp));
        let handed = captured.filter(|(_, (tcp, udp))| is_handed(tcp) || is_handed(udp));
        let handed = handed.map(|(family, _)| family).filter(|family| family.exists());
        let interfaces = capture.interfaces.iter().filter(|name| *name != NEAR);
        Self {
            routed: capture.routed().filter(|family| family.exists()).collect(),
            handed: handed.collect(),
            interfaces: Some(interfaces.cloned().collect()),
            answers: capture.keeps_source,
        }
    }

    /// Looks at everything once.
    pub(super) fn look(&self) -> Vec<(Check, Finding)> {
        self.look_at(Path::new(SWITCHES), &sys::links())
    }

    fn look_at(&self, switches: &Path, links: &io::Result<Vec<Link>>) -> Vec<(Check, Finding)> {
        let mut found = Vec::new();
        if !self.routed.is_empty() {
            if self.routed.contains(&Family::V4) {
                found.push((Check::ValidMark, finding(self.valid_mark(switches))));
            }
            found.push((Check::AcceptMark, finding(accept_mark(switches))));
        }
        let known = || {
            let names = self.interfaces.as_deref().ok_or(Unseen::Rules)?;
            Ok((names, links.as_deref().map_err(Unseen::Interfaces)?))
        };
        if !self.handed.is_empty() {
            let bridges = known().and_then(|(names, links)| self.bridges(switches, names, links));
            found.push((Check::Bridge, finding(bridges)));
        }
        found.push((Check::Port, finding(known().map(|(names, links)| port(names, links)))));
        found
    }

    /// The mark of a packet is used for the way back to its source, which is then this host itself:
    /// not to be believed, and dropped. For IPv4 alone.
    fn valid_mark(&self, switches: &Path) -> InTheWay<'static> {
        let conf = switches.join("ipv4/conf");
        let is_on = |name: &str| read(&conf.join(name).join("src_valid_mark"));
        let mut names = vec!["all".to_owned()];
        if self.answers {
            let listed = fs::read_dir(&conf).map_err(|source| unread(&conf, source))?;
            let listed = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            names.extend(listed.filter(|name| !["all", "default", "lo"].contains(&&**name)));
        } else {
            // Where none is named, nobody knows which of them clients come in by.
            names.extend(self.interfaces.iter().flatten().cloned());
        }
        for name in names {
            if is_on(&name)? == Some(true) {
                // sysctl(8) separates by dots, so that a dot of the name is written as a slash.
                let key = name.replace('.', "/");
                return Ok(Some(format!(
                    "{name} looks for the way back by mark, and drops every IPv4 packet for a \
                     listener: `sysctl -w net.ipv4.conf.{key}.src_valid_mark=0`"
                )));
            }
        }
        Ok(None)
    }

    /// A bridge that shows its packets to the hooks before they are for this host: the socket that
    /// `tproxy` gives them is taken off again.
    fn bridges(&self, switches: &Path, names: &[String], links: &[Link]) -> InTheWay<'static> {
        let bridges = links.iter().filter_map(|link| Some((&link.name, link.bridge?)));
        for (name, own) in bridges {
            for (family, (key, option)) in Family::ALL.into_iter().zip([
                ("bridge-nf-call-iptables", "nf_call_iptables"),
                ("bridge-nf-call-ip6tables", "nf_call_ip6tables"),
            ]) {
                if !self.handed.contains(&family) {
                    continue;
                }
                let own = own[usize::from(family == Family::V6)];
                let of_all = read(&switches.join("bridge").join(key))? == Some(true);
                let mend = match (of_all, own) {
                    (true, _) => format!("sysctl -w net.bridge.{key}=0"),
                    (false, true) => format!("ip link set {name} type bridge {option} 0"),
                    (false, false) => continue,
                };
                if names.is_empty() {
                    return Err(Unseen::Unnamed { bridge: name.clone(), mend });
                }
                if !names.contains(name) {
                    continue;
                }
                return Ok(Some(format!(
                    "br_netfilter has the rules see packets of the bridge {name} too early, and no \
                     IPv{} packet reaches a listener: `{mend}`",
                    family.digit()
                )));
            }
        }
        Ok(None)
    }
}

/// What a connection is accepted by is taken over by its answers, which then lead back to this host.
fn accept_mark(switches: &Path) -> InTheWay<'static> {
    let is_on = read(&switches.join("ipv4/tcp_fwmark_accept"))? == Some(true);
    Ok(is_on.then(|| {
        "answers to clients bear the mark of their packets, and never leave: `sysctl -w \
         net.ipv4.tcp_fwmark_accept=0`"
            .to_owned()
    }))
}

/// An interface that is named and is a port of another one: packets come in by that one.
fn port(names: &[String], links: &[Link]) -> Option<String> {
    let named = links.iter().filter(|link| names.contains(&link.name));
    let mut ports = named.filter_map(|link| Some((&link.name, link.port_of.as_ref()?)));
    let (name, of) = ports.find(|(_, of)| !names.contains(of))?;
    Some(format!(
        "{name} is a port of {of}, by which its packets come in: nothing is captured; name `--interface \
         {of}` in CAPTURE_OPTIONS and restart schengate-capture"
    ))
}

fn finding(looked: InTheWay<'_>) -> Finding {
    match looked {
        Ok(None) => Finding::Intact,
        Ok(Some(how)) => Finding::Broken(how),
        Err(why) => Finding::Unseen(why.to_string()),
    }
}

/// Whether a switch is on; `None` where there is none of that name in this kernel.
fn read(path: &Path) -> Result<Option<bool>, Unseen<'static>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim() != "0")),
        // Without the folder of all of them nothing is known.
        Err(e) if e.kind() == io::ErrorKind::NotFound && Path::new(SWITCHES).exists() => Ok(None),
        Err(source) => Err(unread(path, source)),
    }
}

fn unread(path: &Path, source: io::Error) -> Unseen<'static> {
    Unseen::Switch { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switches(on: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let off = [
            "ipv4/conf/all/src_valid_mark",
            "ipv4/conf/lan0/src_valid_mark",
            "ipv4/conf/wan0.7/src_valid_mark",
            "ipv4/tcp_fwmark_accept",
            "bridge/bridge-nf-call-iptables",
            "bridge/bridge-nf-call-ip6tables",
        ];
        for name in off {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, if on.contains(&name) { "1\n" } else { "0\n" }).unwrap();
        }
        folder
    }

    fn link(name: &str, bridge: Option<[bool; 2]>, port_of: Option<&str>) -> Link {
        Link { name: name.into(), bridge, port_of: port_of.map(Into::into) }
    }

    fn delivery(interfaces: Option<&[&str]>) -> Delivery {
        let interfaces = interfaces.map(|names| names.iter().map(|&name| name.into()).collect());
        let both = Family::ALL.to_vec();
        Delivery { routed: both.clone(), handed: both, interfaces, answers: false }
    }

    /// What is broken: the check, and how.
    fn broken(delivery: &Delivery, on: &[&str], links: Vec<Link>) -> Vec<(Check, String)> {
        let found = delivery.look_at(switches(on).path(), &Ok(links));
        let broken = found.into_iter().filter_map(|(check, finding)| match finding {
            Finding::Broken(how) => Some((check, how)),
            Finding::Intact | Finding::Unseen(_) => None,
        });
        broken.collect()
    }

    #[test]
    fn h07_what_is_in_the_way_is_named_with_the_command_that_mends_it() {
        let lan = delivery(Some(&["lan0"]));
        let links = || vec![link("lan0", None, None), link("wan0.7", None, None)];
        assert_eq!(broken(&lan, &[], links()), []);
        for (on, check, mend) in [
            (
                "ipv4/conf/all/src_valid_mark",
                Check::ValidMark,
                "sysctl -w net.ipv4.conf.all.src_valid_mark=0",
            ),
            (
                "ipv4/conf/lan0/src_valid_mark",
                Check::ValidMark,
                "sysctl -w net.ipv4.conf.lan0.src_valid_mark=0",
            ),
            ("ipv4/tcp_fwmark_accept", Check::AcceptMark, "sysctl -w net.ipv4.tcp_fwmark_accept=0"),
        ] {
            let found = broken(&lan, &[on], links());
            let [(found, how)] = found.as_slice() else { panic!("{on}: {found:?}") };
            assert_eq!(*found, check);
            assert!(how.contains(&format!("`{mend}`")), "{how}");
        }
        // The far side matters where answers to a kept source come in by it.
        let far = ["ipv4/conf/wan0.7/src_valid_mark"];
        assert_eq!(broken(&lan, &far, links()), []);
        assert_eq!(broken(&delivery(Some(&[])), &far, links()), []);
        let found = broken(&Delivery { answers: true, ..lan.clone() }, &far, links());
        assert!(found[0].1.contains("net.ipv4.conf.wan0/7.src_valid_mark=0"), "{found:?}");
    }

    #[test]
    fn h07_a_bridge_with_br_netfilter_and_a_port_of_a_bridge_bring_nothing() {
        let calls = ["bridge/bridge-nf-call-ip6tables"];
        let bridge = |own| vec![link("br0", Some(own), None), link("lan0", None, Some("br0"))];
        let named = delivery(Some(&["br0"]));
        assert_eq!(broken(&named, &[], bridge([false; 2])), []);
        let of_all = broken(&named, &calls, bridge([false; 2]));
        assert!(of_all[0].1.contains("`sysctl -w net.bridge.bridge-nf-call-ip6tables=0`"));
        let own = broken(&named, &[], bridge([true, false]));
        assert!(own[0].1.contains("`ip link set br0 type bridge nf_call_iptables 0`"), "{own:?}");
        // Another bridge, of containers say, is nobody's concern; where nothing is named it may be.
        let other = || vec![link("docker0", Some([true; 2]), None), link("lan0", None, None)];
        assert_eq!(broken(&delivery(Some(&["lan0"])), &calls, other()), []);
        let any = delivery(Some(&[]));
        assert_eq!(broken(&any, &calls, other()), []);
        let found = any.look_at(switches(&calls).path(), &Ok(other()));
        assert!(
            found
                .iter()
                .any(|(check, it)| { *check == Check::Bridge && matches!(it, Finding::Unseen(_)) })
        );
        let port = broken(&delivery(Some(&["lan0"])), &[], bridge([false; 2]));
        assert_eq!(port[0].0, Check::Port);
        assert!(port[0].1.contains("--interface br0"), "{port:?}");
        assert_eq!(broken(&delivery(Some(&["lan0", "br0"])), &[], bridge([false; 2])), []);
    }

    #[test]
    fn h07_what_is_not_known_is_not_called_intact() {
        let unknown = delivery(None);
        let found = unknown.look_at(switches(&[]).path(), &Ok(Vec::new()));
        let of = |wanted: Check| found.iter().find(|(check, _)| *check == wanted).unwrap();
        assert!(matches!(of(Check::Bridge).1, Finding::Unseen(_)));
        assert!(matches!(of(Check::Port).1, Finding::Unseen(_)));
        let on = ["ipv4/conf/all/src_valid_mark"];
        assert_eq!(broken(&unknown, &on, Vec::new()).len(), 1);
        let failed = io::Error::from(io::ErrorKind::PermissionDenied);
        let lan = delivery(Some(&["lan0"]));
        let found = lan.look_at(switches(&[]).path(), &Err(failed));
        assert!(
            found
                .iter()
                .any(|(check, it)| { *check == Check::Port && matches!(it, Finding::Unseen(_)) })
        );
    }
}
