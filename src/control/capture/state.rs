//! What the one who keeps the capture tells the gateway, which may not look for itself: a file of
//! one JSON object, written whole or not at all.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The file, where nobody says otherwise: a folder of the keeper's own unit.
pub const STATE: &str = "/run/schengate-keeper/state.json";

/// A file that does not change for so long is of somebody who hangs or is gone.
const SILENT: Duration = Duration::from_secs(20);

/// What became of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// Refused by this gateway, or nothing where nothing must arrive.
    Held,
    /// It came out on the far side: the post is open.
    Open,
    /// Nothing was heard of it.
    Lost,
}

/// What is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// Grows with every look, so that one who hangs is told from one who has nothing new.
    pub turn: u64,
    /// How often each part was put back.
    pub restored: BTreeMap<String, u64>,
    /// What cannot be put back, and why.
    pub fault: Option<String>,
    /// What keeps packets from the listeners, by the label of the check: how, and what mends it, or
    /// nothing where nothing does.
    pub hindered: BTreeMap<String, String>,
    /// By way (`tcp4`, `udp6`, `past4` ...) what became of the last probe.
    pub probe: BTreeMap<String, Seen>,
    /// Why there are no probes.
    pub unprobed: String,
}

impl Said {
    /// Writes it down.
    ///
    /// # Errors
    /// The folder cannot be made or written to.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let next = path.with_extension("next");
        std::fs::write(&next, serde_json::to_vec(self)?)?;
        std::fs::rename(next, path)
    }

    /// Counts what was put back.
    pub(super) fn put_back(&mut self, parts: impl IntoIterator<Item = &'static str>) {
        for part in parts {
            *self.restored.entry(part.to_owned()).or_default() += 1;
        }
    }

    /// The ways that were probed, and whether the probe was refused as it should be.
    pub fn ways(&self) -> impl Iterator<Item = (&str, bool)> {
        self.probe.iter().map(|(way, seen)| (way.as_str(), *seen == Seen::Held))
    }

    /// What is wrong with the capture, in words; `None` where nothing is.
    #[must_use]
    pub fn wrong(&self) -> Option<String> {
        let ways = |wanted: Seen| {
            let ways = self.probe.iter().filter(|(_, seen)| **seen == wanted);
            ways.map(|(way, _)| way.as_str()).collect::<Vec<_>>().join(", ")
        };
        let (open, lost) = (ways(Seen::Open), ways(Seen::Lost));
        let mut hindered = self.hindered.values().filter(|how| !how.is_empty());
        if !open.is_empty() {
            Some(format!("THE POST IS OPEN for {open}"))
        } else if let Some(fault) = &self.fault {
            Some(fault.clone())
        } else if let Some(how) = hindered.next() {
            Some(how.clone())
        } else if !lost.is_empty() {
            Some(format!("no answer for {lost}"))
        } else {
            None
        }
    }
}

/// What the gateway makes of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Nobody keeps the capture: it is not probed.
    Nobody,
    /// Nobody does, and the gateway itself sees what keeps packets from the listeners: how.
    Hindered(String),
    /// There was one, and now there is none, or he hangs.
    Silent,
    /// What he says.
    Says(Said),
}

/// Reads the file again and again.
#[derive(Debug, Default)]
pub struct Listener {
    /// The last turn, and when it was new.
    last: Option<(u64, Instant)>,
}

impl Listener {
    /// What is said now.
    pub fn hear(&mut self, path: &Path, now: Instant) -> Word {
        self.said(std::fs::read(path).ok().as_deref(), now)
    }

    /// As [`Listener::hear`], where somebody else has read the file; `None`: it is not there.
    pub fn said(&mut self, text: Option<&[u8]>, now: Instant) -> Word {
        let said = text.and_then(|text| serde_json::from_slice::<Said>(text).ok());
        match (said, self.last) {
            (None, None) => Word::Nobody,
            (None, Some(_)) => Word::Silent,
            (Some(said), Some((turn, since))) if turn == said.turn => {
                if now.duration_since(since) > SILENT { Word::Silent } else { Word::Says(said) }
            }
            (Some(said), _) => {
                self.last = Some((said.turn, now));
                Word::Says(said)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_stops_writing_or_goes_is_silent_and_one_who_never_was_is_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/state.json");
        let (mut listener, begun) = (Listener::default(), Instant::now());
        assert_eq!(listener.hear(&path, begun), Word::Nobody);
        let mut said = Said { turn: 1, ..Said::default() };
        said.write(&path).unwrap();
        assert_eq!(listener.hear(&path, begun), Word::Says(said.clone()));
        let late = begun + SILENT + Duration::from_secs(1);
        assert_eq!(listener.hear(&path, late), Word::Silent);
        said.turn = 2;
        said.write(&path).unwrap();
        assert_eq!(listener.hear(&path, late), Word::Says(said));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(listener.hear(&path, late), Word::Silent);
    }

    #[test]
    fn what_is_open_is_said_before_what_is_lost() {
        let mut said = Said::default();
        assert_eq!(said.wrong(), None);
        said.probe.insert("udp4".into(), Seen::Held);
        assert_eq!(said.wrong(), None);
        said.probe.insert("tcp4".into(), Seen::Lost);
        assert!(said.wrong().unwrap().contains("tcp4"));
        said.hindered.insert("br_netfilter".into(), String::new());
        assert!(said.wrong().unwrap().contains("tcp4"));
        said.hindered.insert("src_valid_mark".into(), "why `and what to do`".into());
        assert_eq!(said.wrong().unwrap(), "why `and what to do`");
        said.probe.insert("past4".into(), Seen::Open);
        assert_eq!(said.wrong().unwrap(), "THE POST IS OPEN for past4");
    }
}
