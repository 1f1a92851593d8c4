//! Registers every live connection with its worker, so that a policy reload, or a second ClientHello
//! for another host, can judge it again and close it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::evaluate::Subject;
use crate::account::live::{By, Listed, LiveConnection, Selection, Total};
use crate::account::{
    Account, Bytes, Decision, DecisionContext, End, Ingress, Named, Record, Rejudged,
};
use crate::identify::{BadName, HostName};
use crate::policy::{Action, Mode, Reason};

/// Live connections that are looked at before others have their turn.
const LOOK_SHARE: usize = 256;

/// Time between two looks at the bytes of live connections: how far the counters are behind.
const COUNT_EVERY: Duration = Duration::from_secs(20);

/// The live connections of one worker.
#[derive(Debug, Default)]
pub(super) struct Registry {
    flows: RefCell<Flows>,
    /// How often the live connections were judged again: a connection whose policy was loaded
    /// before a turn, and which took its verdict after it, has to be judged once more.
    turns: Cell<u64>,
    /// Looks for old connections so far.
    looks: Cell<u32>,
    fewer: Notify,
}

/// Live connections, each in a place that is taken again once it has ended: eight bytes, of which a
/// map by number took thirty.
#[derive(Debug, Default)]
struct Flows {
    places: Vec<Option<Rc<ConnHandle>>>,
    free: Vec<u32>,
}

impl Flows {
    /// Takes in the connection that `made` makes for its place.
    fn insert(&mut self, made: impl FnOnce(u32) -> ConnHandle) -> Rc<ConnHandle> {
        // Far fewer than 2^32 live at once: connections have descriptors, and flows a bound.
        let at = self.free.pop().unwrap_or(self.places.len() as u32);
        let handle = Rc::new(made(at));
        match self.places.get_mut(at as usize) {
            Some(place) => *place = Some(Rc::clone(&handle)),
            None => self.places.push(Some(Rc::clone(&handle))),
        }
        handle
    }

    fn remove(&mut self, at: u32) {
        if self.places.get_mut(at as usize).and_then(Option::take).is_some() {
            self.free.push(at);
        }
    }

    fn all(&self) -> impl Iterator<Item = &Rc<ConnHandle>> {
        self.places.iter().flatten()
    }

    const fn is_empty(&self) -> bool {
        self.places.len() == self.free.len()
    }
}

/// One live connection, as far as others have to know it. Every one of them holds it while it lives:
/// cells, since each `RefCell` takes a word more.
#[derive(Default)]
pub(super) struct ConnHandle {
    subject: Cell<Option<Box<ConnFacts>>>,
    /// Once it has a verdict.
    bytes: OnceCell<Arc<Bytes>>,
    /// Boxed: few connections are ended by a verdict, and all of them hold room for it.
    judged: Cell<Option<Box<Decision>>>,
    /// Who waits to be told to end.
    waits: Cell<Option<Waker>>,
    /// Its place.
    at: u32,
    /// The look at which it ends; [`ENDLESS`] where its listener does not bound the time.
    last: u32,
    end: Cell<Option<End>>,
    /// An [`Reevaluation`] is held.
    again: Cell<bool>,
    /// `judged` lets it go on by a later policy, and is not in the record yet.
    untold: Cell<bool>,
}

/// No look: there is one a second.
const ENDLESS: u32 = u32::MAX;

/// What a connection asked, its names in as many bytes as they have: it is kept as long as the
/// connection lives, and a [`HostName`] has room for the longest one.
struct ConnFacts {
    subject: Subject<Named, Box<str>>,
    shown: Option<Shown>,
}

/// What is shown of a connection beside what it asked, once it has a verdict in its record.
struct Shown {
    context: Arc<DecisionContext>,
    /// The client's port.
    port: u16,
    ingress: Ingress,
    action: Action,
    reason: Reason,
    would: Option<Action>,
    mode: Mode,
}

impl Shown {
    fn of(record: &Record) -> Option<Self> {
        let judged = record.judgement()?;
        let Decision { verdict, context, .. } = judged;
        Some(Self {
            context: Arc::clone(context),
            port: record.client().port(),
            ingress: record.ingress(),
            action: verdict.action(),
            reason: verdict.reason(),
            would: verdict.would(),
            mode: verdict.mode(),
        })
    }

    /// The connection was judged again.
    fn follow(&mut self, judged: &Decision) {
        let Decision { verdict, context, .. } = judged;
        self.context = Arc::clone(context);
        (self.action, self.reason) = (verdict.action(), verdict.reason());
        (self.would, self.mode) = (verdict.would(), verdict.mode());
    }

    /// Whether a later judgement says the same, whatever policy and tables gave it.
    fn is_as(&self, judged: &Decision) -> bool {
        let verdict = &judged.verdict;
        (self.action, self.reason, self.would, self.mode)
            == (verdict.action(), verdict.reason(), verdict.would(), verdict.mode())
            && self.context.says_as(&judged.context)
    }
}

/// `name` is that of `subject`, as its record holds it.
fn facts_of(subject: &Subject, name: Option<Named>) -> Subject<Named, Box<str>> {
    subject.with_names(name, subject.inside.as_ref().map(|host| host.as_str().into()))
}

fn subject_of(note: &Subject<Named, Box<str>>) -> Result<Subject, BadName> {
    let name = match &note.name {
        Some(name) => Some((HostName::parse(name.host().as_bytes())?, name.source())),
        None => None,
    };
    let inside = note.inside.as_ref().map(|host| HostName::parse(host.as_bytes()));
    Ok(note.with_names(name, inside.transpose()?))
}

impl Registry {
    /// Takes in a connection that nobody has judged yet; it ends after `lifetime`, see
    /// [`Registry::end_the_old`].
    pub(super) fn register(self: &Rc<Self>, lifetime: Option<Duration>) -> Registration {
        let looks = lifetime.map_or(ENDLESS as u64, |time| time.as_secs().saturating_add(1));
        let last = self.looks.get().saturating_add(u32::try_from(looks).unwrap_or(ENDLESS));
        let made = |at| ConnHandle { at, last, ..ConnHandle::default() };
        let handle = self.flows.borrow_mut().insert(made);
        Registration { registry: Rc::clone(self), handle }
    }

    /// The number of the current turn.
    pub(super) fn turn(&self) -> u64 {
        self.turns.get()
    }

    /// Begins a turn: every connection that has a verdict.
    pub(super) fn begin_turn(&self) -> Vec<Rc<ConnHandle>> {
        self.turns.set(self.turns.get() + 1);
        let flows = self.flows.borrow();
        flows.all().filter(|handle| handle.with_facts(|_| ()).is_some()).map(Rc::clone).collect()
    }

    /// Ends what has lasted as long as it may, found by one look a second instead of a timer each.
    pub(super) async fn end_the_old(&self) {
        loop {
            sleep(Duration::from_secs(1)).await;
            let look = self.looks.get().saturating_add(1).min(ENDLESS - 1);
            self.looks.set(look);
            let flows = self.flows.borrow();
            let old = flows.all().filter(|handle| handle.last <= look);
            old.for_each(|handle| handle.cut(End::Lifetime, None));
        }
    }

    /// Counts what live connections have forwarded, and records what is to be said of them, each time
    /// that [`COUNT_EVERY`] has passed; the rest is counted when they end.
    pub(super) async fn follow(&self, account: &Account) {
        loop {
            sleep(COUNT_EVERY).await;
            self.flows.borrow().all().for_each(|handle| handle.tell(account));
        }
    }

    /// What is wanted of the live connections.
    pub(super) async fn list(&self, wanted: &Selection) -> Listed {
        let mut listed = Listed::default();
        self.look(|connection| listed.add(connection, wanted)).await;
        listed.cut(wanted);
        listed
    }

    /// The bytes of the live connections, added up.
    pub(super) async fn totals(&self, by: By) -> HashMap<String, Total> {
        let mut totals: HashMap<String, Total> = HashMap::new();
        self.look(|connection| {
            totals.entry(by.key(&connection)).or_default().add(&Total::of(&connection));
        })
        .await;
        totals
    }

    /// Has `see` look at every connection that is forwarded, some at a time: others go on meanwhile,
    /// and one that ends or begins there may be seen or not.
    async fn look(&self, mut see: impl FnMut(LiveConnection)) {
        let mut at = 0;
        loop {
            let share: Vec<_> = {
                let flows = self.flows.borrow();
                let Some(rest) = flows.places.get(at..).filter(|rest| !rest.is_empty()) else {
                    return;
                };
                rest.iter().take(LOOK_SHARE).flatten().map(Rc::clone).collect()
            };
            share.iter().filter_map(|handle| handle.shown()).for_each(&mut see);
            at += LOOK_SHARE;
            yield_now().await;
        }
    }

    /// Tells the connection of this record to end, and whether there is one.
    pub(super) fn kill(&self, sequence: u64) -> bool {
        let of = |handle: &&Rc<ConnHandle>| {
            handle.bytes.get().and_then(|bytes| bytes.record()).is_some_and(|it| it.0 == sequence)
        };
        let flows = self.flows.borrow();
        let found = flows.all().find(of);
        found.inspect(|handle| handle.cut(End::Killed, None)).is_some()
    }

    /// Tells every connection to end.
    pub(super) fn cut_all(&self, end: End) {
        for handle in self.flows.borrow().all() {
            handle.cut(end, None);
        }
    }

    /// Waits until no connection is left.
    pub(super) async fn emptied(&self) {
        while !self.flows.borrow().is_empty() {
            self.fewer.notified().await;
        }
    }
}

/// A connection's place in the registry of its worker, given up when dropped.
#[derive(Debug)]
pub(super) struct Registration {
    registry: Rc<Registry>,
    handle: Rc<ConnHandle>,
}

impl Registration {
    /// The connection has a verdict, in its record, and this is what it asked.
    pub(super) fn judged(&self, subject: &Subject, record: &Record) {
        let name = record.judgement().and_then(|judged| judged.name.clone());
        self.handle.put(facts_of(subject, name), Shown::of(record));
        self.handle.forwards(record.bytes());
    }

    /// Waits until the connection is told to end; one task at a time may.
    pub(super) fn closed(&self) -> impl Future<Output = End> + use<> {
        let handle = Rc::clone(&self.handle);
        poll_fn(move |context| handle.poll_cut(context))
    }

    /// Waits until this connection or the other one is told to end.
    pub(super) fn either_closed(&self, other: &Self) -> impl Future<Output = End> + use<> {
        let (handle, other) = (Rc::clone(&self.handle), Rc::clone(&other.handle));
        poll_fn(move |context| match handle.poll_cut(context) {
            Poll::Ready(end) => Poll::Ready(end),
            Poll::Pending => other.poll_cut(context),
        })
    }
}

impl Deref for Registration {
    type Target = ConnHandle;

    fn deref(&self) -> &ConnHandle {
        &self.handle
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.flows.borrow_mut().remove(self.handle.at);
        self.registry.fewer.notify_one();
    }
}

/// A connection that its holder judges again, until this is dropped: a task that breaks off leaves no
/// connection behind that nobody judges any more.
#[derive(Debug)]
pub(super) struct Reevaluation(Rc<ConnHandle>);

impl Deref for Reevaluation {
    type Target = ConnHandle;

    fn deref(&self) -> &ConnHandle {
        &self.0
    }
}

impl Drop for Reevaluation {
    fn drop(&mut self) {
        self.0.again.set(false);
    }
}

impl ConnHandle {
    /// What the connection asked, where it has a verdict.
    ///
    /// # Errors
    /// A name that was read once cannot be read again, which never happens, and is no leave to go
    /// on without it.
    pub(super) fn subject(&self) -> Option<Result<Subject, BadName>> {
        self.with_facts(|facts| subject_of(&facts.subject))
    }

    /// The connection has a verdict, and this is what it asked.
    pub(super) fn note(&self, subject: &Subject, name: Option<Named>) {
        let known = self.subject.take();
        self.put(facts_of(subject, name), known.and_then(|facts| facts.shown));
    }

    fn put(&self, subject: Subject<Named, Box<str>>, shown: Option<Shown>) {
        self.subject.set(Some(Box::new(ConnFacts { subject, shown })));
    }

    /// What others see of the connection, where it is forwarded.
    fn shown(&self) -> Option<LiveConnection> {
        let bytes = self.bytes.get()?;
        let (sequence, age) = bytes.record()?;
        let (bytes_up, bytes_down) = bytes.totals();
        self.with_facts(|facts| {
            let (subject, shown) = (&facts.subject, facts.shown.as_ref()?);
            Some(LiveConnection {
                sequence,
                client: SocketAddr::new(subject.client, shown.port),
                ingress: shown.ingress,
                transport: subject.transport,
                protocol: subject.protocol,
                destination: subject.destination,
                host: subject.name.as_ref().map(|name| Arc::clone(name.shared())),
                action: shown.action,
                reason: shown.reason,
                context: Arc::clone(&shown.context),
                bytes_up,
                bytes_down,
                age,
            })
        })?
    }

    /// What the connection forwards is counted here.
    pub(super) fn forwards(&self, bytes: &Arc<Bytes>) {
        // The record, and its counter, are the same at a later verdict.
        self.bytes.get_or_init(|| Arc::clone(bytes));
    }

    /// Notes that the connection is [`Subject::mismatched`], and gives what it asks now.
    pub(super) fn mismatched(&self) -> Option<Result<Subject, BadName>> {
        self.with_facts(|facts| {
            facts.subject.mismatched = true;
            subject_of(&facts.subject)
        })
    }

    /// What `see` makes of what the connection asked, where it has a verdict.
    fn with_facts<T>(&self, see: impl FnOnce(&mut ConnFacts) -> T) -> Option<T> {
        let mut facts = self.subject.take()?;
        let seen = see(&mut facts);
        self.subject.set(Some(facts));
        Some(seen)
    }

    /// Makes the caller the one who judges the connection again; `None` where another does, and will
    /// see what has changed meanwhile.
    pub(super) fn begin_reevaluation(self: Rc<Self>) -> Option<Reevaluation> {
        (!self.again.replace(true)).then(|| Reevaluation(self))
    }

    /// Tells the connection to end; `judged` is the verdict that ends it, where there is one.
    pub(super) fn cut(&self, end: End, judged: Option<Decision>) {
        if self.end.get().is_none() {
            self.end.set(Some(end));
            if let Some(judged) = judged {
                self.judge(judged);
            }
            if let Some(waker) = self.waits.take() {
                waker.wake();
            }
        }
    }

    /// Keeps a verdict that takes the place of the one in the record.
    pub(super) fn judge(&self, judged: Decision) {
        self.with_facts(|facts| facts.shown.iter_mut().for_each(|shown| shown.follow(&judged)));
        self.judged.set(Some(Box::new(judged)));
        self.untold.set(false);
    }

    /// A later policy lets the connection go on. Where it does so otherwise than before, that is recorded
    /// now, and at a later look where there is no room for it; that the policy is another one stands in
    /// the record of the reload, and need not stand there once more for each connection.
    pub(super) fn goes_on(&self, judged: Decision, account: &Account) {
        let is_as =
            |facts: &mut ConnFacts| facts.shown.as_ref().is_some_and(|it| it.is_as(&judged));
        let is_known = self.with_facts(is_as) == Some(true);
        // What waits to be told is told as it is now.
        let waits = self.untold.get();
        self.judge(judged);
        if waits || !is_known {
            self.untold.set(true);
            self.tell_judged(account);
        }
    }

    /// Counts what was forwarded, and records what is to be said.
    fn tell(&self, account: &Account) {
        if let Some(bytes) = self.bytes.get() {
            account.live(bytes);
        }
        self.tell_judged(account);
    }

    fn tell_judged(&self, account: &Account) {
        let Some(bytes) = self.bytes.get().filter(|_| self.untold.get()) else { return };
        let Some(judged) = self.judged.take() else { return };
        self.untold.set(!account.judged_again(bytes, &judged, Rejudged::Policy));
        self.judged.set(Some(judged));
    }

    /// The verdict that takes the place of the one in the record.
    pub(super) fn last_judged(&self) -> Option<Decision> {
        self.judged.take().map(|judged| *judged)
    }

    /// Waits until the connection is told to end; one task at a time may.
    pub(super) fn poll_cut(&self, context: &Context<'_>) -> Poll<End> {
        if let Some(end) = self.end.get() {
            return Poll::Ready(end);
        }
        let waits = self.waits.take().filter(|known| known.will_wake(context.waker()));
        self.waits.set(Some(waits.unwrap_or_else(|| context.waker().clone())));
        Poll::Pending
    }
}

impl fmt::Debug for ConnHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnHandle").field("at", &self.at).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::kept::CapturedLog;
    use crate::flow::evaluate::NameEvidence;
    use crate::identify::{NameSource, Protocol};

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn what_lasts_too_long_is_ended_and_nothing_else() {
        let registry = Rc::new(Registry::default());
        let looks = Rc::clone(&registry);
        let looking = tokio::task::spawn_local(async move { looks.end_the_old().await });
        let [endless, bounded] =
            [None, Some(Duration::from_secs(9))].map(|lifetime| registry.register(lifetime));
        let begun = tokio::time::Instant::now();
        let end = bounded.closed().await;
        assert_eq!(end, End::Lifetime);
        assert!((9..=10).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        assert!(endless.end.get().is_none());
        looking.abort();
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn s04_bytes_of_a_live_connection_are_counted_while_it_lives_and_once() {
        let registry = Rc::new(Registry::default());
        let account = CapturedLog::default().account();
        let (looks, counted) = (Rc::clone(&registry), account.clone());
        let looking = tokio::task::spawn_local(async move { looks.follow(&counted).await });
        let (handle, bytes) = (registry.register(None), Arc::new(Bytes::default()));
        handle.forwards(&bytes);
        let up = |count| format!("schengate_bytes_total{{direction=\"up\"}} {count}\n");
        for round in 1..=3 {
            bytes.up(1000);
            sleep(Duration::from_secs(60)).await;
            let text = account.metrics().render();
            assert!(text.contains(&up(round * 1000)), "{text}");
        }
        bytes.up(7);
        account.metrics().closed(Duration::ZERO, bytes.uncounted());
        sleep(Duration::from_secs(60)).await;
        let text = account.metrics().render();
        assert!(text.contains(&up(3007)), "{text}");
        looking.abort();
    }

    #[test]
    fn what_was_asked_is_asked_again_in_the_same_words() {
        let name = |text: &str| HostName::parse(text.as_bytes()).unwrap();
        let mut subject =
            Subject::unread("192.0.2.9".parse().unwrap(), "[2001:db8::7]:443".parse().unwrap());
        for (outer, inside) in [(None, None), (Some("a.example"), Some("b.example"))] {
            subject.name = outer.map(|text| (name(text), NameSource::Connect));
            subject.inside = inside.map(name);
            subject.protocol = Protocol::Tls;
            subject.evidence = NameEvidence::Resolved;
            subject.ech = true;
            subject.mismatched = outer.is_some();
            let again = subject_of(&facts_of(&subject, subject.name.map(Into::into))).unwrap();
            assert_eq!(format!("{again:?}"), format!("{subject:?}"));
        }
    }
}
