//! Files that are read again when they change: here, or where only the broker may open them.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys::{Channel, Packet};

/// Bytes that are read of a file, at most.
const MOST: u64 = 64 << 20;

/// How long the first word of each file is waited for.
const FIRST: Duration = Duration::from_secs(10);

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

/// A file, and the version of it that was told last.
#[derive(Debug)]
pub struct Followed {
    path: PathBuf,
    /// `None`: nothing was told yet.
    told: Option<Result<Stamp, ()>>,
}

impl Followed {
    /// Nothing was told of it yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), told: None }
    }

    /// The file, where it is another than the one that was told, or the fault, where it has become one
    /// that cannot be read; `None` where nothing is new.
    pub fn look(&mut self) -> Option<io::Result<File>> {
        // Before the file: what is written meanwhile is seen at the next look.
        let opened = Stamp::of(&self.path).and_then(|now| {
            let is_new = self.told != Some(Ok(now));
            Ok((now, if is_new { Some(File::open(&self.path)?) } else { None }))
        });
        match opened {
            Ok((now, file)) => {
                self.told = Some(Ok(now));
                file.map(Ok)
            }
            Err(fault) => {
                let is_new = self.told != Some(Err(()));
                self.told = Some(Err(()));
                is_new.then_some(Err(fault))
            }
        }
    }
}

/// The broker's side: tells of a few files by their place in the list.
pub(super) struct Teller {
    channel: Option<Channel>,
    files: Vec<Followed>,
}

impl Teller {
    pub(super) fn new(channel: Channel, paths: &[&Path]) -> Self {
        let files = paths.iter().map(|path| Followed::new(path)).collect();
        Self { channel: Some(channel), files }
    }

    /// Tells what is new.
    pub(super) fn tell(&mut self) {
        let Some(channel) = &self.channel else { return };
        for (place, file) in (0_u8..).zip(&mut self.files) {
            let mut packet = vec![place];
            let sent = match file.look() {
                None => continue,
                Some(Ok(opened)) => channel.try_send(&packet, &[opened.as_fd()]),
                Some(Err(fault)) => {
                    packet.extend_from_slice(fault.to_string().as_bytes());
                    channel.try_send(&packet, &[])
                }
            };
            match sent {
                Ok(()) => {}
                // Nobody wants it.
                Err(fault) if is_end(&fault) => {
                    self.channel = None;
                    return;
                }
                // There is no room: it is told again at the next look.
                Err(_) => file.told = None,
            }
        }
    }
}

fn is_end(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// What became of a file.
pub type News = (usize, io::Result<Vec<u8>>);

/// The gateway's side: what became of the files of a list.
#[derive(Debug)]
pub struct Feed {
    channel: Channel,
    files: usize,
}

impl Feed {
    pub(super) const fn new(channel: Channel, files: usize) -> Self {
        Self { channel, files }
    }

    /// Waits until each file was told of once, or could not be, and gives the last word on each.
    ///
    /// # Errors
    /// The broker has ended, or says nothing.
    pub fn first(&self) -> io::Result<Vec<News>> {
        let mut news: Vec<News> = Vec::new();
        while news.len() < self.files {
            if !self.channel.wait(FIRST)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            for (place, text) in self.news()? {
                news.retain(|(known, _)| *known != place);
                news.push((place, text));
            }
        }
        Ok(news)
    }

    /// What was told since the last time, in order. Never waits.
    ///
    /// # Errors
    /// The broker has ended.
    pub fn news(&self) -> io::Result<Vec<News>> {
        let mut news = Vec::new();
        loop {
            match self.channel.try_receive() {
                Ok(Some(packet)) => news.extend(self.read(packet)),
                // What was told before the end is heard.
                Ok(None) if news.is_empty() => return Err(io::ErrorKind::BrokenPipe.into()),
                Ok(None) => return Ok(news),
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(news),
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) => return Err(fault),
            }
        }
    }

    fn read(&self, packet: Packet) -> Option<News> {
        let (place, fault) = packet.bytes.split_first()?;
        let place = usize::from(*place);
        let text = match packet.descriptors.into_iter().next() {
            None => Err(io::Error::other(String::from_utf8_lossy(fault).into_owned())),
            Some(opened) => {
                let mut text = Vec::new();
                File::from(opened).take(MOST).read_to_end(&mut text).map(|_| text)
            }
        };
        (place < self.files).then_some((place, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_when_it_comes_changes_is_replaced_and_goes_and_nothing_is_told_twice() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        fs::write(&one, "1").unwrap();
        let (here, there) = Channel::pair().unwrap();
        let (feed, mut teller) = (Feed::new(here, 2), Teller::new(there, &[&one, &two]));
        teller.tell();
        let seen = |news: Vec<News>| -> Vec<_> {
            news.into_iter().map(|(place, text)| (place, text.ok())).collect()
        };
        let text = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(seen(feed.first().unwrap()), [(0, text("1")), (1, None)]);
        teller.tell();
        assert_eq!(seen(feed.news().unwrap()), []);
        let next = dir.path().join("next");
        fs::write(&next, "12").unwrap();
        fs::rename(&next, &one).unwrap();
        fs::write(&two, "2").unwrap();
        teller.tell();
        assert_eq!(seen(feed.news().unwrap()), [(0, text("12")), (1, text("2"))]);
        fs::remove_file(&one).unwrap();
        teller.tell();
        teller.tell();
        assert_eq!(seen(feed.news().unwrap()), [(0, None)]);
        drop(teller);
        assert!(feed.news().is_err(), "the end of the other side is told");
    }

    #[test]
    fn a_channel_that_nobody_reads_holds_nobody_up_and_loses_only_what_was_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let (here, there) = Channel::pair().unwrap();
        let (feed, mut teller) = (Feed::new(here, 1), Teller::new(there, &[&file]));
        for turn in 0..5000 {
            let next = dir.path().join("next");
            fs::write(&next, format!("{turn:08}")).unwrap();
            fs::rename(&next, &file).unwrap();
            teller.tell();
        }
        let mut last = None;
        while let Some((_, text)) = feed.news().unwrap().pop() {
            last = Some(text.unwrap());
            teller.tell();
        }
        assert_eq!(last.unwrap(), b"00004999");
    }
}
