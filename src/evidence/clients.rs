//! Whose connection a record is of: as it is, as a prefix, or as a pseudonym.
//!
//! A pseudonym is a keyed hash of the address (HMAC-SHA-256, RFC 2104) under a key that is good for one
//! period, in a file of its own. Beside it stands the address itself, sealed under the same key
//! (ChaCha20-Poly1305, RFC 8439; its nonce is another keyed hash of the address, so that no nonce is
//! used for two addresses). Once the file is gone, nobody can tell any more who it was, and no record
//! was changed for that.

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::settings::{Clients, KEYS_MODE, Pseudonyms, make_folder};
use super::sink::SinkFault;
use super::writer::HOLD;

/// Bytes of a key.
const KEY_LEN: usize = 32;

/// What the one line of a key's file begins with.
const FORM: &str = "schengate-pseudonym-key";

/// The ending of a key's file.
const ENDING: &str = "key";

/// Bytes of a keyed hash that stand in a pseudonym.
const PSEUDONYM_LEN: usize = 8;

/// What stands where no key is there: an address never does.
const WITHHELD: &str = "withheld";

/// Time between two looks at the files of the keys.
const LOOK: Duration = Duration::from_secs(10);

/// The key of one period.
struct Key {
    /// Seconds since 1970, the second one excluded.
    from: i64,
    until: i64,
    /// By which a pseudonym tells its key; it tells nothing about the key.
    id: String,
    pseudonym: hmac::Key,
    nonce: hmac::Key,
    seal: LessSafeKey,
    text: String,
}

/// What became of a key, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// The first part of its pseudonyms.
    pub id: String,
    /// When its period begins and ends.
    pub from: Timestamp,
    /// The end.
    pub until: Timestamp,
    /// Whether it was made, or destroyed.
    pub is_made: bool,
}

/// How clients stand in the record.
pub struct Shown {
    how: How,
}

enum How {
    Plain,
    Prefix(u8, u8),
    Keyed(Box<Keyed>),
}

/// The keys in use.
struct Keyed {
    settings: Pseudonyms,
    directory: PathBuf,
    hold: PathBuf,
    keys: RwLock<Vec<Arc<Key>>>,
    /// When the files were looked at last.
    looked: Mutex<Option<Instant>>,
}

/// A client as it stands in a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The prefix or the pseudonym.
    pub text: String,
    /// The address, sealed.
    pub sealed: Option<String>,
}

impl Shown {
    /// As these settings say; the directory of the keys is made where there is none.
    ///
    /// # Errors
    /// The keys cannot be made or read.
    pub fn open(settings: &super::Settings) -> Result<Self, SinkFault> {
        let how = match &settings.clients {
            Clients::Plain => How::Plain,
            Clients::Prefix { v4, v6 } => How::Prefix(*v4, *v6),
            Clients::Pseudonym(pseudonyms) => {
                let directory = pseudonyms.keys.clone();
                make_folder(&directory, KEYS_MODE)?;
                let hold = settings.directory.join(HOLD);
                let settings = pseudonyms.clone();
                How::Keyed(Box::new(Keyed {
                    settings,
                    directory,
                    hold,
                    keys: RwLock::default(),
                    looked: Mutex::default(),
                }))
            }
        };
        Ok(Self { how })
    }

    /// Every client is withheld: for a gateway that was to use pseudonyms, and has no key.
    #[must_use]
    pub const fn withheld() -> Self {
        Self { how: How::Prefix(0, 0) }
    }

    /// Whether clients stand there as they are.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        matches!(self.how, How::Plain)
    }

    /// What is written of a client. Reads no file and waits for none.
    #[must_use]
    pub fn of(&self, client: IpAddr) -> Client {
        let plain = |text: String| Client { text, sealed: None };
        match &self.how {
            How::Plain => plain(client.to_string()),
            How::Prefix(0, 0) => plain(WITHHELD.to_owned()),
            How::Prefix(v4, v6) => plain(prefix(client, *v4, *v6)),
            How::Keyed(keyed) => match keyed.current(Timestamp::now().as_second()) {
                Some(key) => kept(&key, client),
                None => plain(WITHHELD.to_owned()),
            },
        }
    }

    /// Makes the keys of this period and of the next one where they are not there, forgets those whose
    /// file is gone, and destroys those that are kept no longer. Looks at files, at most every ten
    /// seconds.
    ///
    /// # Errors
    /// A key cannot be made, read or destroyed.
    pub fn prepare(&self, now: Timestamp) -> Result<Vec<KeyChange>, SinkFault> {
        let How::Keyed(keyed) = &self.how else { return Ok(Vec::new()) };
        let mut looked = keyed.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|at| at.elapsed() < LOOK) && keyed.current(now.as_second()).is_some()
        {
            return Ok(Vec::new());
        }
        let changes = keyed.prepare(now.as_second())?;
        *looked = Some(Instant::now());
        Ok(changes)
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

/// The address without all that is behind the prefix.
fn prefix(client: IpAddr, v4: u8, v6: u8) -> String {
    let (bits, length) = match client {
        IpAddr::V4(_) => (32, v4),
        IpAddr::V6(_) => (128, v6),
    };
    let behind = u32::from(bits) - u32::from(length.min(bits));
    match client {
        IpAddr::V4(ip) => {
            let kept = u32::MAX.checked_shl(behind).unwrap_or(0);
            format!("{}/{length}", std::net::Ipv4Addr::from_bits(ip.to_bits() & kept))
        }
        IpAddr::V6(ip) => {
            let kept = u128::MAX.checked_shl(behind).unwrap_or(0);
            format!("{}/{length}", Ipv6Addr::from_bits(ip.to_bits() & kept))
        }
    }
}

/// The client under a key, kept by each thread: a connection asks at least twice.
fn kept(key: &Key, client: IpAddr) -> Client {
    const ROOM: usize = 64;
    type Kept = Option<(String, IpAddr, Client)>;
    thread_local! {
        static KEPT: RefCell<[Kept; ROOM]> = const { RefCell::new([const { None }; ROOM]) };
    }
    let octets = octets(client);
    let at = octets
        .iter()
        .fold(0_usize, |sum, octet| sum.wrapping_mul(31).wrapping_add(usize::from(*octet)))
        % ROOM;
    KEPT.with_borrow_mut(|all| match all.get_mut(at) {
        Some(Some((id, ip, known))) if *id == key.id && *ip == client => known.clone(),
        Some(place) => {
            let made = key.client(client);
            *place = Some((key.id.clone(), client, made.clone()));
            made
        }
        None => key.client(client),
    })
}

/// An address in sixteen octets, one of four as it is mapped (RFC 4291 §2.5.5.2).
const fn octets(client: IpAddr) -> [u8; 16] {
    match client {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

impl Key {
    fn of(secret: &[u8; KEY_LEN], from: i64, until: i64) -> Option<Self> {
        let master = hmac::Key::new(HMAC_SHA256, secret);
        let derived = |what: &[u8]| hmac::sign(&master, what);
        let id = digest(&SHA256, &[b"schengate pseudonym key id\0", &secret[..]].concat());
        let id: String = id.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let seal = UnboundKey::new(&CHACHA20_POLY1305, derived(b"seal").as_ref()).ok()?;
        let text = format!("{FORM} 1 {from} {until} {}\n", BASE64.encode(secret));
        Some(Self {
            from,
            until,
            id,
            pseudonym: hmac::Key::new(HMAC_SHA256, derived(b"pseudonym").as_ref()),
            nonce: hmac::Key::new(HMAC_SHA256, derived(b"nonce").as_ref()),
            seal: LessSafeKey::new(seal),
            text,
        })
    }

    /// A new one.
    fn generate(from: i64, until: i64) -> Option<Self> {
        let mut secret = [0; KEY_LEN];
        SystemRandom::new().fill(&mut secret).ok()?;
        Self::of(&secret, from, until)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_suffix('\n')?.split(' ');
        let is_form = words.next()? == FORM && words.next()? == "1";
        let (from, until) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let secret = BASE64.decode(words.next()?).ok()?.try_into().ok()?;
        let is_whole = is_form && words.next().is_none() && from < until;
        is_whole.then(|| Self::of(&secret, from, until)).flatten()
    }

    fn pseudonym(&self, client: IpAddr) -> String {
        let hash = hmac::sign(&self.pseudonym, &octets(client));
        let hash = hash.as_ref().iter().take(PSEUDONYM_LEN).map(|byte| format!("{byte:02x}"));
        format!("p{}-{}", self.id, hash.collect::<String>())
    }

    fn client(&self, client: IpAddr) -> Client {
        let text = self.pseudonym(client);
        let sealed = self.seal(client, &text);
        Client { text, sealed }
    }

    fn seal(&self, client: IpAddr, pseudonym: &str) -> Option<String> {
        let hash = hmac::sign(&self.nonce, &octets(client));
        let nonce: [u8; NONCE_LEN] = *hash.as_ref().first_chunk()?;
        let mut sealed = octets(client).to_vec();
        let aad = Aad::from(pseudonym.as_bytes());
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        self.seal.seal_in_place_append_tag(nonce_of, aad, &mut sealed).ok()?;
        Some(BASE64.encode([&nonce[..], &sealed].concat()))
    }

    fn unseal(&self, sealed: &str, pseudonym: &str) -> Option<IpAddr> {
        let mut bytes = BASE64.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk_mut::<NONCE_LEN>()?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let aad = Aad::from(pseudonym.as_bytes());
        let octets = self.seal.open_in_place(nonce, aad, sealed).ok()?;
        let octets: [u8; 16] = (*octets).try_into().ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
    }

    fn change(&self, is_made: bool) -> KeyChange {
        let at = |second| Timestamp::from_second(second).unwrap_or_default();
        KeyChange { id: self.id.clone(), from: at(self.from), until: at(self.until), is_made }
    }
}

impl Keyed {
    /// The key of this instant; of another one where there is none, as behind a clock that was set.
    fn current(&self, now: i64) -> Option<Arc<Key>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let current = keys.iter().find(|key| (key.from..key.until).contains(&now));
        current.or_else(|| keys.first()).map(Arc::clone)
    }

    fn path(&self, from: i64) -> PathBuf {
        let at = Timestamp::from_second(from).unwrap_or_default().strftime("%Y%m%dT%H%M%SZ");
        self.directory.join(format!("{at}-{}.{ENDING}", self.settings.period.as_secs()))
    }

    fn prepare(&self, now: i64) -> Result<Vec<KeyChange>, SinkFault> {
        let period = i64::try_from(self.settings.period.as_secs()).unwrap_or(i64::MAX).max(1);
        let begins = now.div_euclid(period) * period;
        let mut changes = Vec::new();
        let mut keys = Vec::new();
        for from in [begins, begins.saturating_add(period)] {
            let (key, is_made) = self.key(from, from.saturating_add(period))?;
            if is_made {
                changes.push(key.change(true));
            }
            keys.push(Arc::new(key));
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        if let Some(retain) = self.settings.retain.filter(|_| !self.hold.exists()) {
            let oldest = now.saturating_sub(i64::try_from(retain.as_secs()).unwrap_or(i64::MAX));
            for (path, key) in all(&self.directory)? {
                if key.until < oldest {
                    fs::remove_file(&path).map_err(SinkFault::file(&path, "cannot be removed"))?;
                    changes.push(key.change(false));
                }
            }
        }
        Ok(changes)
    }

    /// The key of a period, and whether it was made now. Whoever else makes it at the same time has
    /// the same one.
    fn key(&self, from: i64, until: i64) -> Result<(Key, bool), SinkFault> {
        let path = self.path(from);
        let bad = || {
            io::Error::new(io::ErrorKind::InvalidData, "the file has no key of pseudonyms in it")
        };
        match fs::read_to_string(&path) {
            Ok(text) => {
                let key = Key::parse(&text).ok_or_else(bad);
                return Ok((key.map_err(SinkFault::file(&path, "cannot be read"))?, false));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(SinkFault::file(&path, "cannot be read")(error)),
        }
        let random = || io::Error::other("the system gives no random numbers");
        let key = Key::generate(from, until).ok_or_else(random);
        let key = key.map_err(SinkFault::file(&path, "cannot be made"))?;
        match write_once(&path, &key.text) {
            Ok(()) => Ok((key, true)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let text = fs::read_to_string(&path);
                let key = text.and_then(|text| Key::parse(&text).ok_or_else(bad));
                Ok((key.map_err(SinkFault::file(&path, "cannot be read"))?, false))
            }
            Err(error) => Err(SinkFault::file(&path, "cannot be written")(error)),
        }
    }
}

/// Writes a file that is whole from the moment at which it has its name.
fn write_once(path: &Path, text: &str) -> io::Result<()> {
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&part)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| fs::hard_link(&part, path));
    fs::remove_file(&part)?;
    linked?;
    path.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
}

/// Every key of a directory.
fn all(directory: &Path) -> Result<Vec<(PathBuf, Key)>, SinkFault> {
    let fault = || SinkFault::file(directory, "cannot be read");
    let mut keys = Vec::new();
    for entry in fs::read_dir(directory).map_err(fault())? {
        let path = entry.map_err(fault())?.path();
        if path.extension().is_none_or(|ending| ending != ENDING) {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(SinkFault::file(&path, "cannot be read"))?;
        keys.extend(Key::parse(&text).map(|key| (path, key)));
    }
    Ok(keys)
}

/// Why nobody can tell who a client was.
#[derive(Debug, thiserror::Error)]
pub enum Unrevealed {
    /// The keys cannot be read.
    #[error(transparent)]
    Keys(#[from] SinkFault),
    /// The client is not a pseudonym.
    #[error("{0:?} is not a pseudonym: p, eight hexadecimal digits, a dash, and sixteen more")]
    Pseudonym(String),
    /// Its key is not there.
    #[error(
        "the key {0} is not in the directory: where it was destroyed, nobody can tell any more who \
         it was"
    )]
    Erased(String),
    /// What was sealed is not what the key has sealed.
    #[error("the sealed address is not one of this key and pseudonym: the record was changed")]
    Forged,
}

/// The address of a client, by the keys of a directory.
///
/// # Errors
/// Its key is not there, or does not open it.
pub fn reveal(keys: &Path, pseudonym: &str, sealed: &str) -> Result<IpAddr, Unrevealed> {
    let id = pseudonym.strip_prefix('p').and_then(|text| text.split_once('-'));
    let (id, _) = id.ok_or_else(|| Unrevealed::Pseudonym(pseudonym.to_owned()))?;
    let key = all(keys)?.into_iter().find(|(_, key)| key.id == id);
    let (_, key) = key.ok_or_else(|| Unrevealed::Erased(id.to_owned()))?;
    let address = key.unseal(sealed, pseudonym).ok_or(Unrevealed::Forged)?;
    if key.pseudonym(address) == pseudonym { Ok(address) } else { Err(Unrevealed::Forged) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const DAY: i64 = 24 * 60 * 60;

    fn keyed(directory: &Path, retain: Option<Duration>) -> Shown {
        let period = Duration::from_secs(24 * 60 * 60);
        let keys = directory.join("keys");
        let clients = Clients::Pseudonym(Pseudonyms { period, keys, retain });
        let settings = super::super::Settings::new(directory.to_owned());
        Shown::open(&super::super::Settings { clients, ..settings }).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn clients() -> Vec<IpAddr> {
        ["192.0.2.9", "192.0.2.10", "2001:db8::9", "::"].map(|ip| ip.parse().unwrap()).into()
    }

    #[test]
    fn a_pseudonym_is_one_client_s_and_its_key_alone_tells_whose() {
        let dir = tempfile::tempdir().unwrap();
        let shown = keyed(dir.path(), None);
        assert_eq!(shown.of(clients()[0]).text, WITHHELD, "no key, no address");
        let made = shown.prepare(Timestamp::now()).unwrap();
        assert_eq!(made.iter().filter(|key| key.is_made).count(), 2, "this period and the next");
        let all: Vec<Client> = clients().into_iter().map(|client| shown.of(client)).collect();
        for (client, ip) in all.iter().zip(clients()) {
            assert_eq!(*client, shown.of(ip), "the same at any time");
            assert_eq!(all.iter().filter(|other| other.text == client.text).count(), 1);
            let sealed = client.sealed.as_deref().unwrap();
            let keys = dir.path().join("keys");
            assert_eq!(reveal(&keys, &client.text, sealed).unwrap(), ip);
            let other = all.iter().find(|other| other.text != client.text).unwrap();
            let forged = reveal(&keys, &other.text, sealed);
            assert!(matches!(forged, Err(Unrevealed::Forged)), "{forged:?}");
        }
        for entry in fs::read_dir(dir.path().join("keys")).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn another_process_has_the_same_key_and_another_period_another_one() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = Timestamp::now();
        let [one, two, apart] =
            [dir.path(), dir.path(), other.path()].map(|path| keyed(path, None));
        let made = [&one, &two, &apart].map(|shown| shown.prepare(now).unwrap().len());
        assert_eq!(made, [2, 0, 2]);
        let client = clients()[0];
        assert_eq!(one.of(client), two.of(client));
        assert_ne!(one.of(client).text, apart.of(client).text);
        let later = keyed(dir.path(), None);
        later.prepare(at(now.as_second() + DAY)).unwrap();
        let How::Keyed(keys) = &later.how else { panic!() };
        let next = keys.current(now.as_second() + DAY).unwrap();
        assert_ne!(next.pseudonym(client), one.of(client).text);
        // It was made a period ahead.
        let How::Keyed(before) = &one.how else { panic!() };
        assert_eq!(before.current(now.as_second() + DAY).unwrap().id, next.id);
    }

    #[test]
    fn a_key_that_is_destroyed_tells_nobody_any_more_and_is_used_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        let (shown, now) = (keyed(dir.path(), None), Timestamp::now());
        shown.prepare(now).unwrap();
        let Client { text, sealed } = shown.of(clients()[0]);
        for entry in fs::read_dir(&keys).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let erased = reveal(&keys, &text, &sealed.unwrap());
        assert!(matches!(erased, Err(Unrevealed::Erased(_))), "{erased:?}");
        let How::Keyed(inner) = &shown.how else { panic!() };
        *inner.looked.lock().unwrap() = None;
        assert_eq!(shown.prepare(now).unwrap().len(), 2);
        assert_ne!(shown.of(clients()[0]).text, text);
    }

    #[test]
    fn keys_are_destroyed_by_age_and_not_while_there_is_a_hold() {
        let dir = tempfile::tempdir().unwrap();
        let retain = Some(Duration::from_secs(3 * 24 * 60 * 60));
        let now = Timestamp::now().as_second();
        let destroyed = |day: i64| {
            let changes = keyed(dir.path(), retain).prepare(at(now + day * DAY)).unwrap();
            changes.iter().filter(|change| !change.is_made).count()
        };
        assert_eq!([destroyed(0), destroyed(1), destroyed(2)], [0, 0, 0]);
        fs::write(dir.path().join(HOLD), "").unwrap();
        assert_eq!(destroyed(7), 0);
        fs::remove_file(dir.path().join(HOLD)).unwrap();
        // The two of the first days, and the two that the others made ahead.
        assert_eq!(destroyed(7), 4);
    }

    #[test]
    fn a_prefix_has_nothing_of_what_is_behind_it() {
        let [v4, _, v6, none] = clients()[..] else { panic!() };
        assert_eq!(prefix(v4, 24, 48), "192.0.2.0/24");
        assert_eq!(prefix(v4, 0, 48), "0.0.0.0/0");
        assert_eq!(prefix("2001:db8:1:2:3::9".parse().unwrap(), 24, 48), "2001:db8:1::/48");
        assert_eq!(prefix(v6, 24, 0), "::/0");
        assert_eq!(prefix(none, 24, 64), "::/64");
        assert_eq!(Shown::withheld().of(v4).text, WITHHELD);
    }
}
