//! Connections as they are now, for those who look at them and do not serve them.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{DecisionContext, Ingress, network};
use crate::identify::Protocol;
use crate::policy::{Action, Country, Reason, Transport};

/// A connection, a request or a flow that is being forwarded.
#[derive(Debug, Clone)]
pub struct LiveConnection {
    /// Its number among the records of this run ([`super::Account::id`]).
    pub sequence: u64,
    /// The client.
    pub client: SocketAddr,
    /// How it came in.
    pub ingress: Ingress,
    /// How its bytes travel.
    pub transport: Transport,
    /// What its first bytes are.
    pub protocol: Protocol,
    /// The address that was dialled.
    pub destination: SocketAddr,
    /// The name, where one was read.
    pub host: Option<Arc<str>>,
    /// What was decided.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// What the verdict stands on.
    pub context: Arc<DecisionContext>,
    /// Bytes to the destination so far.
    pub bytes_up: u64,
    /// Bytes to the client so far.
    pub bytes_down: u64,
    /// Time since it came in.
    pub age: Duration,
}

/// In which order connections are wanted; each begins with the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The one that came in last.
    Newest,
    /// By bytes to the destination.
    Up,
    /// By bytes to the client.
    Down,
}

/// Which connections are wanted, and how many.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The order.
    pub order: Order,
    /// Those that stand behind this place of the order, as [`LiveConnection::place`] gives it.
    pub after: Option<(u64, u64)>,
    /// The most that are wanted.
    pub limit: usize,
    /// Those of this client: an IPv4 address, or an IPv6 /64.
    pub client: Option<std::net::IpAddr>,
    /// Those in whose name this stands, in lower case.
    pub host: Option<String>,
    /// Those that may land in this country.
    pub country: Option<Country>,
    /// Those that were let go for this reason.
    pub reason: Option<Reason>,
    /// The one of this number.
    pub sequence: Option<u64>,
}

impl Selection {
    /// The newest, so many.
    #[must_use]
    pub const fn newest(limit: usize) -> Self {
        Self {
            order: Order::Newest,
            after: None,
            limit,
            client: None,
            host: None,
            country: None,
            reason: None,
            sequence: None,
        }
    }

    /// Whether a connection is one of them, wherever it stands in their order.
    #[must_use]
    pub fn takes(&self, connection: &LiveConnection) -> bool {
        let country = |country| connection.context.facts().place.codes.contains(country);
        let host = |part: &String| {
            connection.host.as_ref().is_some_and(|host| host.contains(part.as_str()))
        };
        self.client.is_none_or(|client| network(client) == network(connection.client.ip()))
            && self.host.as_ref().is_none_or(host)
            && self.country.is_none_or(country)
            && self.reason.is_none_or(|reason| reason == connection.reason)
            && self.sequence.is_none_or(|sequence| sequence == connection.sequence)
    }
}

impl LiveConnection {
    /// Its place in an order: a number and, where that is the same, its own.
    #[must_use]
    pub const fn place(&self, order: Order) -> (u64, u64) {
        let by = match order {
            Order::Newest => self.sequence,
            Order::Up => self.bytes_up,
            Order::Down => self.bytes_down,
        };
        (by, self.sequence)
    }
}

/// What a worker, or all of them, have of what is wanted: never more than that.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// The first in the order, largest first.
    pub rows: Vec<LiveConnection>,
    /// Connections that were asked for, wherever they stand.
    pub matching: usize,
    /// Connections that live.
    pub live: usize,
    /// The place of the last row of as many as are wanted: what stands behind it is not wanted.
    last: Option<(u64, u64)>,
}

impl Listed {
    /// Takes one more in, where it is wanted.
    pub fn add(&mut self, connection: LiveConnection, wanted: &Selection) {
        self.live += 1;
        if !wanted.takes(&connection) {
            return;
        }
        self.matching += 1;
        let place = connection.place(wanted.order);
        let is_behind = wanted.after.is_none_or(|after| place < after);
        if is_behind && self.last.is_none_or(|last| last < place) {
            self.rows.push(connection);
            // Cut in steps: each connection is then moved a few times, and not once for each other.
            if self.rows.len() >= wanted.limit.saturating_mul(2).max(64) {
                self.select(wanted);
            }
        }
    }

    /// Lets go of the rows beyond the limit, and leaves the others in any order.
    fn select(&mut self, wanted: &Selection) {
        let at = wanted.limit.saturating_sub(1);
        if at < self.rows.len() {
            let place = |row: &LiveConnection| Reverse(row.place(wanted.order));
            let (_, last, _) = self.rows.select_nth_unstable_by_key(at, place);
            self.last = Some(last.place(wanted.order));
        }
        self.rows.truncate(wanted.limit);
    }

    /// Takes in what another worker has.
    pub fn join(&mut self, other: Self, wanted: &Selection) {
        self.rows.extend(other.rows);
        self.matching += other.matching;
        self.live += other.live;
        self.cut(wanted);
    }

    /// Puts the rows into their order, and lets go of those beyond the limit.
    pub fn cut(&mut self, wanted: &Selection) {
        self.select(wanted);
        self.rows.sort_unstable_by_key(|row| Reverse(row.place(wanted.order)));
    }
}

/// By what live connections are added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// The name, else the address.
    Destination,
    /// The countries where the bytes may land.
    Country,
    /// The operator.
    Operator,
    /// The client's address.
    Client,
    /// The client's group.
    Group,
}

impl By {
    /// Each.
    pub const ALL: [Self; 5] =
        [Self::Destination, Self::Country, Self::Operator, Self::Client, Self::Group];

    /// Its name in answers.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Destination => "destination",
            Self::Country => "country",
            Self::Operator => "operator",
            Self::Client => "client",
            Self::Group => "group",
        }
    }

    /// What a connection is added up under; empty where there is nothing to say.
    #[must_use]
    pub fn key(self, connection: &LiveConnection) -> String {
        let facts = connection.context.facts();
        match self {
            Self::Destination => connection
                .host
                .as_ref()
                .map_or_else(|| connection.destination.ip().to_string(), |host| (**host).into()),
            Self::Country => {
                let codes: Vec<_> = facts.place.codes.iter().map(Country::code).collect();
                if facts.place.anycast { "anycast".to_owned() } else { codes.join(" ") }
            }
            Self::Operator => facts.place.operator.unwrap_or_default().to_owned(),
            Self::Client => connection.client.ip().to_string(),
            Self::Group => facts.group.unwrap_or_default().to_owned(),
        }
    }
}

/// Bytes of live connections, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Total {
    /// Connections.
    pub connections: u64,
    /// Bytes to destinations.
    pub bytes_up: u64,
    /// Bytes to clients.
    pub bytes_down: u64,
}

impl Total {
    /// Adds another one.
    pub const fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.bytes_up = self.bytes_up.saturating_add(other.bytes_up);
        self.bytes_down = self.bytes_down.saturating_add(other.bytes_down);
    }

    /// Of one connection.
    #[must_use]
    pub const fn of(connection: &LiveConnection) -> Self {
        Self { connections: 1, bytes_up: connection.bytes_up, bytes_down: connection.bytes_down }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Facts;

    fn connection(sequence: u64, bytes_up: u64) -> LiveConnection {
        LiveConnection {
            sequence,
            client: "192.0.2.9:40000".parse().unwrap(),
            ingress: Ingress::Proxy,
            transport: Transport::Tcp,
            protocol: Protocol::Tls,
            destination: "198.51.100.7:443".parse().unwrap(),
            host: Some("a.example".into()),
            action: Action::Allow,
            reason: Reason::Permitted,
            context: DecisionContext::of(&Facts::default()),
            bytes_up,
            bytes_down: 0,
            age: Duration::ZERO,
        }
    }

    #[test]
    fn pages_of_any_size_over_any_split_are_the_whole_order_once() {
        // Many with the same number of bytes: the place has to tell them apart all the same.
        let all: Vec<_> = (0..997).map(|n| connection(n, n * 7919 % 31)).collect();
        for order in [Order::Newest, Order::Up] {
            let mut expected: Vec<_> = all.iter().map(|one| one.place(order)).collect();
            expected.sort_unstable_by_key(|place| Reverse(*place));
            for limit in [1, 10, 100, 2000] {
                let (mut seen, mut after) = (Vec::new(), None);
                loop {
                    let wanted = Selection { order, after, ..Selection::newest(limit) };
                    let mut listed = Listed::default();
                    for worker in all.chunks(301) {
                        let mut part = Listed::default();
                        worker.iter().for_each(|one| part.add(one.clone(), &wanted));
                        part.cut(&wanted);
                        assert!(part.rows.len() <= limit);
                        listed.join(part, &wanted);
                    }
                    assert_eq!((listed.live, listed.matching), (all.len(), all.len()));
                    assert!(listed.rows.len() <= limit);
                    let Some(last) = listed.rows.last() else { break };
                    after = Some(last.place(order));
                    seen.extend(listed.rows.iter().map(|row| row.place(order)));
                }
                assert_eq!(seen, expected, "{order:?} by {limit}");
            }
        }
    }

    #[test]
    fn what_is_not_asked_for_is_counted_and_left_out() {
        let wanted = Selection { host: Some("b.ex".to_owned()), ..Selection::newest(5) };
        let mut listed = Listed::default();
        listed.add(connection(1, 1), &wanted);
        listed.add(LiveConnection { host: Some("b.example".into()), ..connection(2, 1) }, &wanted);
        assert_eq!((listed.live, listed.matching, listed.rows.len()), (2, 1, 1));
        let of_client =
            Selection { client: Some("192.0.2.8".parse().unwrap()), ..Selection::newest(5) };
        assert!(!of_client.takes(&connection(1, 1)));
    }
}
