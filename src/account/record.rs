//! The record of one connection, from its opening to its one final line.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::timeout;

use super::folded::Kind;
use super::line::{Line, key};
use super::{
    Account, Bytes, Decision, End, Facts, Happened, Ingress, Metrics, Named, Rejudged, network,
    refused_names,
};
use crate::evidence::{self as sink, OnDisk, Unkept};
use crate::identify::{Fault, HostName, NameSource};
use crate::policy::{Action, AddressKind, CountrySet, Reason, Transport, target};

/// Ports on which name servers are asked: DNS, and DNS over TLS or QUIC (RFC 7858, RFC 9250).
const RESOLVER_PORTS: [u16; 2] = [53, 853];

/// The record of one connection. Whatever becomes of the task that holds it, exactly one final line
/// is written: by [`Record::finish`], or as `aborted` when it is dropped.
#[derive(Debug)]
pub struct Record {
    account: Account,
    sequence: u64,
    opened: Instant,
    client: SocketAddr,
    ingress: Ingress,
    transport: Option<Transport>,
    destination: Option<SocketAddr>,
    judged: Option<Box<Decision>>,
    beside: Option<Box<BesideNames>>,
    bytes: Arc<Bytes>,
    was_opened: bool,
    finished: bool,
    /// Questions that this one record stands for; 0 where it is of a connection.
    queries: u32,
}

/// Names that few connections have, beside the one that is judged.
#[derive(Debug, Default)]
struct BesideNames {
    /// That of the hello inside an explicit tunnel, where it is another than the tunnel's.
    inside: Option<HostName>,
    /// That which a name server is asked about for it; it has left, whatever comes of it.
    asked: Option<Named>,
}

impl Record {
    /// Opens a record; its event id is the next of the account.
    pub(super) fn open(account: &Account, client: SocketAddr, ingress: Ingress) -> Self {
        account.metrics().opened();
        let sequence = account.0.sequence.fetch_add(1, Ordering::Relaxed);
        Self {
            account: account.clone(),
            sequence,
            opened: Instant::now(),
            client: SocketAddr::new(client.ip().to_canonical(), client.port()),
            ingress,
            // Questions about names come over both, and one record is of many.
            transport: (ingress != Ingress::Dns).then_some(Transport::Tcp),
            destination: None,
            judged: None,
            beside: None,
            bytes: Arc::default(),
            was_opened: false,
            finished: false,
            queries: 0,
        }
    }

    /// The event id, as in the record and in the answer to a refused client.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}{}", self.account.0.run, self.sequence)
    }

    /// The client.
    #[must_use]
    pub const fn client(&self) -> SocketAddr {
        self.client
    }

    /// The counters of forwarded bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Arc<Bytes> {
        &self.bytes
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        self.account.metrics()
    }

    /// How the connection came in.
    #[must_use]
    pub const fn ingress(&self) -> Ingress {
        self.ingress
    }

    /// Time since the record was opened.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// It is a flow of datagrams.
    pub const fn over_udp(&mut self) {
        self.transport = Some(Transport::Udp);
    }

    /// The shortest round trip to the destination that the kernel saw, microseconds.
    pub fn reached_within(&mut self, round_trip: Option<NonZeroU32>) {
        self.bytes.reached_within(round_trip);
    }

    /// Where the connection was going, known before any verdict.
    pub const fn bound_for(&mut self, destination: SocketAddr) {
        self.destination = Some(destination);
    }

    /// The hello inside an explicit tunnel named another host than the tunnel's.
    pub fn heard_inside(&mut self, name: HostName) {
        self.beside.get_or_insert_default().inside = Some(name);
    }

    /// A name server is asked about a name before there is a verdict.
    pub fn asks_about(&mut self, name: HostName, source: NameSource) {
        self.beside.get_or_insert_default().asked = Some((name, source).into());
    }

    /// The record is of so many questions about names, the first of which came `since`.
    pub fn stands_for(&mut self, queries: u32, since: Instant) {
        self.queries = queries;
        self.opened = since;
    }

    /// What was judged last.
    #[must_use]
    pub fn judgement(&self) -> Option<&Decision> {
        self.judged.as_deref()
    }

    /// Notes and counts a verdict. A later one replaces it in the record, counts again only where it
    /// differs, and is recorded where the connection goes on by it for another reason or elsewhere.
    pub fn judged(&mut self, judged: Decision) {
        if self.was_opened
            && let Some(before) = self.judged.as_deref()
            && judged.verdict.action() != Action::Block
            && judged.differs(before)
        {
            let is_elsewhere = judged.verdict.destination() != before.verdict.destination();
            let cause = if is_elsewhere { Rejudged::Dialled } else { Rejudged::Heard };
            // Where there is no room for it, the `close` line says it.
            let _told = self.account.judged_again(&self.bytes, &judged, cause);
        }
        self.ends_as(judged);
    }

    /// As [`Record::judged`], of what the record's last line says, or what it was told already.
    pub fn ends_as(&mut self, judged: Decision) {
        let kind = |judged: &Decision| (judged.verdict.action(), judged.verdict.reason());
        if self.judged.as_deref().map(kind) != Some(kind(&judged)) {
            self.metrics().judged(self.ingress, &judged.verdict);
        }
        if self.judged.is_none() {
            let place = judged.context.facts().place;
            self.metrics().located(place.codes, place.anycast);
            // What is refused by its name alone has no address yet.
            let to = judged.verdict.destination().ip();
            let is_public = target(to).kind == AddressKind::Ordinary;
            if place.codes.is_empty() && !place.anycast && !is_public {
                self.metrics().is_nowhere();
            }
            self.watch(&judged);
            if judged.verdict.reason() == Reason::Waiver
                && let Some(rule) = judged.context.facts().rule
            {
                self.account.waiver_used(rule, &self.id());
            }
        }
        self.replace(judged);
    }

    /// Counts what a person should hear of: names asked elsewhere than here, and many refused ones.
    fn watch(&self, judged: &Decision) {
        let verdict = &judged.verdict;
        if RESOLVER_PORTS.contains(&verdict.destination().port()) && self.ingress != Ingress::Dns {
            self.metrics().resolver_bypass(verdict.action());
        }
        let Some(name) = judged.name.as_ref().filter(|_| verdict.action() == Action::Block) else {
            return;
        };
        if self.account.0.sources.refused(self.client.ip(), name.host(), self.opened) {
            self.metrics().many_names();
            let client = self.client.ip();
            let hidden = self.account.0.hidden(client).map(|hidden| hidden.text);
            let client = hidden.unwrap_or_else(|| client.to_string());
            tracing::warn!(%client, names = refused_names::MANY,
                "one source was refused many different names");
        }
    }

    /// Replaces the verdict in the record without counting it: the same connection, judged again
    /// with more known or under a later policy.
    pub fn replace(&mut self, judged: Decision) {
        self.destination = Some(judged.verdict.destination());
        self.judged = Some(Box::new(judged));
    }

    /// The connection is about to be forwarded: keeps its `open` line, and waits until it is on the disk
    /// where it has to be there. Others go on meanwhile.
    ///
    /// # Errors
    /// The line cannot be kept, and nothing goes unrecorded: the connection is refused, and its record
    /// says so already.
    pub async fn forwarding(&mut self) -> Result<(), End> {
        if std::mem::replace(&mut self.was_opened, true) {
            return Ok(());
        }
        let now = Timestamp::now();
        let kept = match self.keep("open", None, now) {
            // Boxed: most records do not wait for the disk.
            Ok(Some(on_disk)) => Box::pin(in_time(on_disk)).await,
            Ok(None) => Ok(()),
            Err(unkept) => Err(unkept),
        };
        if kept.is_err() {
            self.was_opened = false;
            if let Some(judged) = self.judged.as_deref() {
                let refused = judged.overruled(*judged.verdict.unrecorded().verdict());
                self.judged(refused);
            }
            return Err(End::Refused);
        }
        self.show("open", None, now);
        self.tell("open", None, now);
        self.bytes.opened(self.sequence, self.opened);
        Ok(())
    }

    /// Closes the record.
    pub fn finish(mut self, end: End) {
        self.close(end);
    }

    fn close(&mut self, end: End) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.metrics().closed(self.age(), self.bytes.uncounted());
        if let Some(judged) = self.judged.as_deref() {
            let place = judged.context.facts().place;
            self.metrics().sent_up(place.codes, place.anycast, self.bytes.totals().0);
        }
        self.metrics().finished(self.judged.as_deref().map(|judged| &judged.verdict));
        if self.judged.is_none() {
            self.metrics().unjudged(self.ingress);
        }
        let is_refused = end == End::Refused;
        let event = match (self.was_opened, self.judged.is_some()) {
            (true, _) => "close",
            (false, true) if self.queries > 0 && !is_refused => "asked",
            (false, true) => "refused",
            (false, false) => "unjudged",
        };
        let now = Timestamp::now();
        // Only an `open` line is one without which nothing goes on.
        let _kept = self.keep(event, Some(end), now);
        self.show(event, Some(end), now);
        self.tell(event, Some(end), now);
    }

    /// Tells those who look on: of a refusal always, of anything else where somebody wants it.
    fn tell(&self, event: &'static str, end: Option<End>, now: Timestamp) {
        let is_refused = self.judged.as_deref().is_some_and(|judged| {
            let verdict = &judged.verdict;
            // What `observe` lets go and `enforce` would not is told of when it is let go.
            let would = event == "open" && verdict.would() == Some(Action::Block);
            would || verdict.action() == Action::Block
        });
        let recent = &self.account.0.recent;
        if is_refused || recent.is_watched() {
            recent.put(Happened {
                event,
                sequence: self.sequence,
                at_ms: now.as_millisecond(),
                client: self.client,
                ingress: self.ingress,
                transport: self.transport,
                destination: self.destination,
                judged: self.judged.as_deref().cloned(),
                end,
                bytes: self.bytes.totals(),
                duration_ms: u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX),
            });
        }
    }

    /// Puts a line into the record.
    fn keep(
        &self,
        event: &'static str,
        end: Option<End>,
        now: Timestamp,
    ) -> Result<Option<OnDisk>, Unkept> {
        let Some(sink) = self.account.0.sink.get() else { return Ok(None) };
        let kind = if event == "open" { sink::Kind::Opening } else { sink::Kind::Other };
        let client = || {
            let mut hasher = DefaultHasher::new();
            network(self.client.ip()).hash(&mut hasher);
            Some(hasher.finish())
        };
        if event == "refused" && sink.is_pressed() && self.fold(end, now) {
            return Ok(None);
        }
        sink.line_of(kind, 1, client, |buffer| self.put(buffer, event, end, now))
    }

    /// Shows a line on the log, where it shows such.
    fn show(&self, event: &'static str, end: Option<End>, now: Timestamp) {
        let account = &self.account.0;
        if !account.shows(self.was_opened) {
            return;
        }
        let written = account.log.line(|buffer| {
            self.put(buffer, event, end, now);
            buffer.push(b'\n');
        });
        match (written, account.sink.get()) {
            (true, _) => {}
            // The record has it.
            (false, Some(_)) => self.metrics().message_lost(),
            (false, None) => self.metrics().audit_lost(),
        }
    }

    /// Counts a refusal with those that are alike; `false` where it has to have a line of its own.
    fn fold(&self, end: Option<End>, now: Timestamp) -> bool {
        let Some(judged) = self.judged.as_deref().filter(|_| self.bytes.totals() == (0, 0)) else {
            return false;
        };
        let kind = Kind {
            client: network(self.client.ip()),
            ingress: self.ingress,
            transport: self.transport,
            destination: self.destination,
            host: judged.name.as_ref().map(|name| Arc::clone(name.shared())),
            reason: judged.verdict.reason(),
            end,
            context: Arc::as_ptr(&judged.context).addr(),
        };
        self.account.0.folded.add(kind, &judged.context, now, |buffer| {
            self.put(buffer, "refused", end, now);
        })
    }

    /// The countries of the location, where light could be at none of them and back in the time that was
    /// measured.
    fn contradicted(&self) -> Option<CountrySet> {
        let (distances, round_trip) =
            self.account.0.distances.get().zip(self.bytes.round_trip())?;
        let place = self.judged.as_deref()?.context.facts().place;
        // What answers from many places may answer from the nearest.
        let location = if place.anycast { CountrySet::EMPTY } else { place.codes };
        let contradicted = distances.contradicted(location, round_trip);
        (!contradicted.is_empty()).then_some(contradicted)
    }

    /// Puts the line behind what is in the buffer. Fields that do not apply are null.
    fn put(&self, buffer: &mut Vec<u8>, event: &'static str, end: Option<End>, now: Timestamp) {
        let (bytes_up, bytes_down) = self.bytes.totals();
        let judged = self.judged.as_deref();
        let verdict = judged.map(|j| &j.verdict);
        let beside = self.beside.as_deref();
        let asked = || beside.and_then(|beside| beside.asked.as_ref());
        let name = judged.map_or_else(asked, |j| j.name.as_ref());
        let duration = u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX);
        let mut line = Line::begin(buffer);
        line.label(key!("event"), Some(event));
        line.id(key!("id"), &self.account.0.run, self.sequence);
        line.time(key!("time"), now);
        match self.account.0.hidden(self.client.ip()) {
            None => line.address(key!("client"), Some(self.client)),
            Some(hidden) => {
                line.text(key!("client"), Some(&hidden.text));
                if let Some(sealed) = &hidden.sealed {
                    line.text(key!("client_sealed"), Some(sealed));
                }
            }
        }
        line.label(key!("listener"), Some(self.ingress.label()));
        line.label(key!("transport"), self.transport.map(Transport::label));
        line.address(key!("destination"), self.destination);
        line.text(key!("host"), name.map(Named::host));
        line.label(key!("name_source"), name.map(|name| name.source().label()));
        line.flag(key!("name_bound"), judged.and_then(|j| j.bound));
        // Whom the hello inside an explicit tunnel named, where it is not the tunnel's host.
        let inside = beside.and_then(|beside| beside.inside.as_ref());
        line.text(key!("sni_inside"), inside.map(HostName::as_str));
        line.flag(key!("ech"), judged.map(|j| j.ech));
        line.label(key!("protocol"), judged.map(|j| j.protocol.label()));
        line.label(key!("fault"), judged.and_then(|j| j.fault).map(Fault::label));
        match judged {
            Some(judged) => line.fields(judged.context.fields()),
            None => Facts::write(None, &mut line),
        }
        line.label(key!("verdict"), verdict.map(|v| v.action().label()));
        line.label(key!("reason"), verdict.map(|v| v.reason().label()));
        line.label(key!("would"), verdict.and_then(|v| v.would()).map(|would| would.label()));
        line.label(key!("mode"), verdict.map(|v| v.mode().label()));
        line.number(key!("bytes_up"), Some(bytes_up));
        line.number(key!("bytes_down"), Some(bytes_down));
        line.number(key!("duration_ms"), Some(duration));
        line.number(key!("rtt_min_us"), self.bytes.round_trip().map(Into::into));
        if let Some(contradicted) = self.contradicted() {
            line.codes(key!("rtt_contradicts"), Some(contradicted));
        }
        line.label(key!("end"), end.map(End::label));
        line.number(key!("queries"), (self.queries > 0).then(|| self.queries.into()));
        line.end();
    }
}

/// Waits for a line, as long as the disk may take.
async fn in_time(on_disk: OnDisk) -> Result<(), Unkept> {
    let (limit, may_fail) = (on_disk.limit(), on_disk.may_fail());
    let late = if may_fail { Ok(()) } else { Err(Unkept) };
    timeout(limit, on_disk).await.unwrap_or(late)
}

impl Drop for Record {
    fn drop(&mut self) {
        self.close(End::Aborted);
    }
}
