//! Records questions: those of one client about one domain that had the same verdict are one
//! line with their number, written once in a while.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::account::{Account, Decision, End, Ingress, Named};
use crate::egress::parent;
use crate::policy::{Action, Reason, RuleId};

/// How long questions are gathered for one line.
pub(super) const PERIOD: Duration = Duration::from_secs(10);

/// Lines that are gathered at once, some 400 bytes each; when there are more, all are written.
const LINES_MAX: usize = 4096;

/// What was asked and is not written down yet. Dropped, it is written.
pub(super) struct Ledger {
    account: Account,
    lines: RefCell<HashMap<Key, Line>>,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    client: IpAddr,
    parent: Box<str>,
    action: Action,
    reason: Reason,
    rule: Option<RuleId>,
    destination: SocketAddr,
    end: End,
}

struct Line {
    client: SocketAddr,
    /// The verdict on the first of them, with its name.
    judged: Decision,
    since: Instant,
    queries: u32,
    /// The event of the first one, where it has a line of its own.
    first: String,
}

impl Ledger {
    pub(super) fn new(account: Account) -> Self {
        Self { account, lines: RefCell::default() }
    }

    /// A question left for a name server; `end` says whether an answer came.
    pub(super) fn asked(&self, client: SocketAddr, judged: Decision, end: End) {
        let fresh = |judged| (judged, 0, String::new());
        self.count(client, judged, end, fresh);
    }

    /// A question was refused. The first of its kind has a line at once, whose event this is.
    pub(super) fn refused(&self, client: SocketAddr, judged: Decision) -> String {
        self.count(client, judged, End::Refused, |judged| {
            let id = self.write(client, judged.clone(), 1, Instant::now(), End::Refused);
            // The line that was written stands for it.
            (judged, 1, id)
        })
    }

    /// Counts a question; `fresh` says of the first one how many are written already, and where.
    fn count(
        &self,
        client: SocketAddr,
        judged: Decision,
        end: End,
        fresh: impl FnOnce(Decision) -> (Decision, u32, String),
    ) -> String {
        let verdict = judged.verdict;
        let key = Key {
            client: client.ip(),
            parent: parent(judged.name.as_ref().map_or(".", Named::host)).into(),
            action: verdict.action(),
            reason: verdict.reason(),
            rule: verdict.rule(),
            destination: verdict.destination(),
            end,
        };
        if let Some(line) = self.lines.borrow_mut().get_mut(&key) {
            line.queries = line.queries.saturating_add(1);
            return line.first.clone();
        }
        if self.lines.borrow().len() >= LINES_MAX {
            self.write_all();
        }
        let (judged, written, first) = fresh(judged);
        let id = first.clone();
        let line = Line { client, judged, since: Instant::now(), queries: 1 - written, first };
        self.lines.borrow_mut().insert(key, line);
        id
    }

    /// Writes down what was gathered.
    pub(super) fn write_all(&self) {
        for (key, line) in self.lines.take() {
            if line.queries > 0 {
                self.write(line.client, line.judged, line.queries, line.since, key.end);
            }
        }
    }

    fn write(
        &self,
        client: SocketAddr,
        judged: Decision,
        queries: u32,
        since: Instant,
        end: End,
    ) -> String {
        let mut record = self.account.open(client, Ingress::Dns);
        record.stands_for(queries, since);
        record.judged(judged);
        let id = record.id();
        record.finish(end);
        id
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.write_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::kept::CapturedLog;
    use crate::identify::{HostName, NameSource};
    use crate::policy::Verdict;

    fn judged(name: &str, action: Action, reason: Reason) -> Decision {
        let name = HostName::parse(name.as_bytes()).unwrap();
        let verdict = Verdict::given(action, reason, "198.51.100.53:53".parse().unwrap());
        let name = Some((name, NameSource::Dns).into());
        Decision { name, ..Decision::without_policy(verdict) }
    }

    /// Host, event, reason and number of each line, in the order of the hosts.
    fn told(kept: &CapturedLog, account: &Account) -> Vec<String> {
        let word = |value: &serde_json::Value| value.to_string().replace('"', "");
        let mut lines: Vec<_> = kept
            .lines(account)
            .iter()
            .map(|it| {
                ["host", "event", "reason", "queries"].map(|field| word(&it[field])).join(" ")
            })
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn every_question_is_in_one_line_that_has_the_number() {
        let kept = CapturedLog::default();
        let account = kept.account();
        let ledger = Ledger::new(account.clone());
        let [one, two] = ["192.0.2.1:1", "192.0.2.2:1"].map(|at| at.parse().unwrap());
        for n in 0..100 {
            let name = format!("n{n}.tunnel.example");
            ledger.asked(one, judged(&name, Action::Allow, Reason::Permitted), End::Done);
        }
        ledger.asked(two, judged("b.tunnel.example", Action::Allow, Reason::Permitted), End::Done);
        ledger.asked(one, judged("c.other.test", Action::Allow, Reason::Permitted), End::Done);
        ledger.asked(one, judged("d.other.test", Action::Allow, Reason::Permitted), End::DnsError);
        assert_eq!(told(&kept, &account), Vec::<String>::new());
        drop(ledger);
        assert_eq!(
            told(&kept, &account),
            [
                "b.tunnel.example asked permitted 1",
                "c.other.test asked permitted 1",
                "d.other.test asked permitted 1",
                "n0.tunnel.example asked permitted 100",
            ]
        );
    }

    #[test]
    fn the_first_refusal_has_its_line_at_once_and_the_others_one_line_together() {
        let kept = CapturedLog::default();
        let account = kept.account();
        let ledger = Ledger::new(account.clone());
        let client = "192.0.2.1:1".parse().unwrap();
        let refuse = |n: usize| {
            let name = format!("n{n}.tunnel.example");
            ledger.refused(client, judged(&name, Action::Block, Reason::Overload))
        };
        let first = refuse(0);
        assert_eq!(told(&kept, &account), ["n0.tunnel.example refused overload 1"]);
        assert!((1..10).all(|n| refuse(n) == first), "all name the event of the first");
        ledger.write_all();
        let lines = told(&kept, &account);
        assert_eq!(lines.last().unwrap(), "n0.tunnel.example refused overload 9");
        assert_ne!(refuse(10), first, "another time, another line");
    }

    #[test]
    fn what_is_gathered_is_bounded() {
        let kept = CapturedLog::default();
        let account = kept.account();
        let ledger = Ledger::new(account.clone());
        for n in 0..=LINES_MAX {
            let judged = judged(&format!("t{n}.example"), Action::Allow, Reason::Permitted);
            ledger.asked("192.0.2.1:1".parse().unwrap(), judged, End::Done);
        }
        assert_eq!(ledger.lines.borrow().len(), 1);
        assert_eq!(kept.lines(&account).len(), LINES_MAX);
    }
}
