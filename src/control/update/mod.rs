//! `schengate data update`: tables fetched over HTTPS, judged on the way by the policy that they
//! are for.
//!
//! ```text
//!  name ─ resolve ─ judge each address ─ dial a permitted one ─ TLS ─ GET ─ redirect? from the start
//!  body ─ aside, bounded ─ digest, signature ─ the one reader ─ older? lost much? ─ rename
//! ```
//! Nothing is fetched unless `[data.update]` says from where. A running gateway notices the rename as
//! it does any change of its files, and loads what it finds with the same checks once more.

mod credential;
mod fault;
mod fetch;
mod take;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;

use self::credential::Credential;
use self::fault::Fault;
use self::fetch::{Client, Target};
use self::take::Place;
use super::config::{Digest, SourceUrl, Update, UpdateSource};
use super::data::{self, Data};
use super::load::{Fetching, LoadFault, load_to_fetch};
use super::progress::Progress;
use super::trust_roots;
use crate::policy::{Action, CountrySet, Verdict};

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Names of sources; none: all.
    pub names: &'a [String],
    /// Judge and say what would be fetched, and connect to nobody but the resolver.
    pub dry_run: bool,
}

/// Why nothing could be asked for.
#[derive(Debug, thiserror::Error)]
pub enum CannotUpdate {
    /// The policy does not load.
    #[error(transparent)]
    Policy(#[from] LoadFault),
    /// The policy names no source.
    #[error("the policy names nothing to fetch; write [data.update] and [[data.update.source]]")]
    Off,
    /// A source that was asked for is not in the policy.
    #[error("no [[data.update.source]] is called {asked:?}; there are {there}")]
    NoSuch {
        /// The name.
        asked: String,
        /// Those that there are.
        there: String,
    },
    /// Nobody could vouch for those who are asked over TLS.
    #[error(transparent)]
    Trust(#[from] trust_roots::Fault),
    /// There is no runtime.
    #[error(transparent)]
    Runtime(#[from] io::Error),
}

/// What became of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// A new file is in place.
    Updated,
    /// The file there is the one that is published.
    Unchanged,
    /// It would be fetched (`--dry-run`).
    WouldFetch,
    /// Refused: by the policy, or because the file is not to be believed. The file there stays.
    Refused,
    /// It could not be fetched. The file there stays.
    Failed,
}

/// One source, in the end. As JSON an object with the fields' names.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Name of the source.
    pub name: String,
    /// Where it is fetched from, without the values of a query and without any credential.
    pub url: String,
    /// Where it goes.
    pub file: String,
    /// What became of it.
    pub result: Ended,
    /// The address that was judged last, and dialled where it was permitted.
    pub address: Option<SocketAddr>,
    /// `allow`, `log` or `block`.
    pub verdict: Option<&'static str>,
    /// The reason of the verdict, as in a record.
    pub reason: Option<&'static str>,
    /// Rows of the new file.
    pub rows: Option<u64>,
    /// Date of the new file, RFC 3339.
    pub date: Option<String>,
    /// SHA-256 of the new file, hex.
    pub digest: Option<String>,
    /// In words, why.
    pub what: Option<String>,
}

/// Fetches what is asked for, one source after the other. The files that could not be read as they
/// are, and so judged nothing, are given first.
///
/// # Errors
/// Where nothing could be begun; whatever befalls one source is in its report.
pub fn update(
    path: Option<&Path>,
    asked: Asked<'_>,
    now: Timestamp,
    progress: &dyn Progress,
) -> Result<(Vec<data::DataFault>, Vec<Report>), CannotUpdate> {
    let loaded = load_to_fetch(path, now)?;
    let Fetching { compiler, settings, update, permitted, left_out } = loaded;
    let update = update.as_ref().ok_or(CannotUpdate::Off)?;
    let sources = chosen(update, asked.names)?;
    let policy = compiler.policy_at(now);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let fetched: Result<_, CannotUpdate> = runtime.block_on(async {
        let names = &compiler.config().names;
        let client = Client::new(&policy, names, update)?;
        let (settings, dry_run) = (&settings, asked.dry_run);
        let today = now.to_zoned(TimeZone::UTC).date();
        let job = Job { client, settings, permitted, dry_run, today, progress };
        let mut reports = Vec::new();
        for source in sources {
            reports.push(job.report(source, update).await);
        }
        Ok(reports)
    });
    Ok((left_out, fetched?))
}

fn chosen<'u>(update: &'u Update, names: &[String]) -> Result<Vec<&'u UpdateSource>, CannotUpdate> {
    let there = || {
        let names = update.sources.iter().map(|source| source.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    for asked in names {
        if !update.sources.iter().any(|source| source.name == *asked) {
            return Err(CannotUpdate::NoSuch { asked: asked.clone(), there: there() });
        }
    }
    let wanted = |source: &&UpdateSource| names.is_empty() || names.contains(&source.name);
    Ok(update.sources.iter().filter(wanted).collect())
}

/// What holds for every source.
struct Job<'a> {
    client: Client<'a>,
    settings: &'a Data,
    permitted: CountrySet,
    dry_run: bool,
    /// In UTC.
    today: Date,
    progress: &'a dyn Progress,
}

/// What is to be said of a source, however it ends.
struct Trail {
    judged: Option<Verdict>,
    /// The day whose URL was asked for last.
    day: Date,
}

/// How a source ended where nothing went wrong.
enum Done {
    Updated(data::SourceInfo),
    Unchanged(&'static str),
    WouldFetch(String),
}

impl Job<'_> {
    async fn report(&self, source: &UpdateSource, update: &Update) -> Report {
        let mut trail = Trail { judged: None, day: self.today };
        let credential = source.credential.as_ref().map(Credential::read).transpose();
        let (ended, credential) = match credential {
            Err(fault) => (Err(fault), None),
            Ok(credential) => {
                let one = self.one(source, credential.as_ref(), update.max_bytes, &mut trail);
                let ended = tokio::time::timeout(update.timeout, one).await;
                (ended.unwrap_or(Err(Fault::Late(update.timeout))), credential)
            }
        };
        self.progress.end();
        let Trail { judged, day } = trail;
        let mut report = Report {
            name: source.name.clone(),
            url: source.url.shown_on(day),
            file: source.file.display().to_string(),
            result: Ended::Failed,
            address: judged.map(|verdict| verdict.destination()),
            verdict: judged.map(|verdict| verdict.action().label()),
            reason: judged.map(|verdict| verdict.reason().label()),
            rows: None,
            date: None,
            digest: None,
            what: None,
        };
        match ended {
            Ok(Done::Updated(info)) => {
                report.result = Ended::Updated;
                report.rows = Some(info.rows);
                report.date = info.as_of.map(|date| date.to_string());
                report.digest = Some(info.digest);
            }
            Ok(Done::Unchanged(how)) => {
                report.result = Ended::Unchanged;
                report.what = Some(how.to_owned());
            }
            Ok(Done::WouldFetch(how)) => {
                report.result = Ended::WouldFetch;
                report.what = Some(how);
            }
            Err(fault) => {
                if fault.is_refusal() {
                    report.result = Ended::Refused;
                }
                report.what = Some(fault.to_string());
            }
        }
        // No text above is made of the credential; what a server says may be.
        if let Some(credential) = credential {
            report.what = report.what.map(|what| credential.masked(&what));
        }
        if let Some(would) = judged.and_then(|verdict| verdict.would())
            && would == Action::Block
        {
            let note = "the policy observes only: in `enforce` this address is refused";
            let what = report.what.take().map_or_else(String::new, |what| format!("{what}; "));
            report.what = Some(format!("{what}{note}"));
        }
        report
    }

    /// The file of today, else the one before it where the URL holds a date: the new one comes some
    /// time after the day or month began.
    async fn one(
        &self,
        source: &UpdateSource,
        credential: Option<&Credential>,
        max_bytes: u64,
        trail: &mut Trail,
    ) -> Result<Done, Fault> {
        let days = source.url.days(self.today);
        let mut missing = None;
        for day in days {
            trail.day = day;
            match self.one_of(day, source, credential, max_bytes, &mut trail.judged).await {
                Err(Fault::Status { url, status: 404 }) => {
                    // What is said is that today's is missing.
                    missing.get_or_insert(Fault::Status { url, status: 404 });
                }
                ended => return ended,
            }
        }
        trail.day = self.today;
        Err(missing.unwrap_or_else(|| Fault::Status { url: source.url.to_string(), status: 404 }))
    }

    async fn one_of(
        &self,
        day: Date,
        source: &UpdateSource,
        credential: Option<&Credential>,
        max_bytes: u64,
        judged: &mut Option<Verdict>,
    ) -> Result<Done, Fault> {
        let client = &self.client;
        let there = data::digest_of(&source.file);
        let target = target(&source.url, day, credential)?;
        let key = source.url.dated(day);
        if self.dry_run {
            if let (Some(Digest::Is(wanted)), Some(there)) = (&source.digest, &there)
                && wanted == there
            {
                return Ok(Done::Unchanged(PINNED));
            }
            client.judge(&target.url, judged).await?;
            let known = take::validators(&source.file, &key, there.as_deref());
            let how = if known.is_empty() { "whole" } else { "if it changed since it was fetched" };
            return Ok(Done::WouldFetch(how.to_owned()));
        }
        // What lies beside the file is asked for with its credential where the same server has it.
        let beside = |url: &SourceUrl| {
            let it = self::target(url, day, credential)?;
            let own = it.url.origin() == target.url.origin();
            if !own && url.wants_credential() {
                let why = "is of another server, which is not told the credential";
                return Err(Fault::Redirect { to: it.shown, why });
            }
            Ok(Target { credential: it.credential.filter(|_| own), ..it })
        };
        let wanted = match &source.digest {
            None => None,
            Some(Digest::Is(digest)) => Some(digest.clone()),
            Some(Digest::At(url)) => {
                let text = client.small(&beside(url)?, take::DIGESTS_MAX_BYTES, judged).await?;
                Some(take::published_digest(&text, &target.url)?)
            }
        };
        if wanted.is_some() && wanted == there {
            return Ok(Done::Unchanged(PINNED));
        }
        let place = Place::take(&source.file)?;
        let known = take::validators(&source.file, &key, there.as_deref());
        let Some(answer) = client.get(&target, &known, judged).await? else {
            return Ok(Done::Unchanged("the server says that it did not change"));
        };
        self.progress.begin(&format!("fetching {}", source.name), answer.length());
        let (validators, modified) = (answer.validators(&key), answer.modified());
        let mut file = place.create()?;
        let digest = answer.write(&mut file, max_bytes, self.progress).await?;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != digest) {
            return Err(Fault::Digest { wanted, got: digest });
        }
        if let Some(signature) = &source.signature {
            let url = beside(&signature.url)?;
            let text = client.small(&url, take::SIGNATURE_MAX_BYTES, judged).await?;
            let bytes =
                fs::read(place.aside()).map_err(|error| Fault::aside(place.aside(), error))?;
            take::check_signature(&signature.key, &bytes, &text)?;
        }
        place.settle(&mut file, modified)?;
        let info = data::vet(self.settings, &source.file, place.aside(), self.permitted);
        let info = info.map_err(Fault::Data)?;
        let same = there.as_deref() == Some(info.digest.as_str());
        place.put(&validators.known_by(&digest))?;
        Ok(if same { Done::Unchanged("the same bytes came again") } else { Done::Updated(info) })
    }
}

/// What is asked for on a day.
fn target<'t>(
    url: &SourceUrl,
    day: Date,
    credential: Option<&'t Credential>,
) -> Result<Target<'t>, Fault> {
    let shown = url.shown_on(day);
    let whole = url.on(day, credential.map_or("", Credential::in_url));
    match whole {
        Ok(url) => Ok(Target { url, shown, credential }),
        Err(_) => Err(Fault::Redirect { to: shown, why: "is not a URL with this credential" }),
    }
}

const PINNED: &str = "it has the digest that is asked for";
