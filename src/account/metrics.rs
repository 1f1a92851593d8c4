//! The metrics; with [`definitions`](super::definitions), the one place that names them. Labels
//! come from closed sets only: no name, address or text of a client. What happens for every connection
//! is counted by [`ShardedCounters`] and handed to the registry when it is read; what is rare goes
//! there at once, by a handle that is taken once.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, gauge, with_local_recorder};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use super::Ingress;
use super::definitions::{BOUNDS, HISTOGRAMS, Taken, describe};
use super::labels::{Accept, Connect, DnsQuery, Dropped, Hello, LaneLoss, Limit, Probed};
use super::sharded::{BUCKETS_MAX, Samples, ShardedCounters};
use crate::evidence::Status;
use crate::policy::{Action, Country, CountrySet, Reason, Verdict};

/// A histogram, as its place in [`HISTOGRAMS`].
#[derive(Clone, Copy)]
enum Time {
    Decision,
    HelloWait,
    Connect,
    Duration,
}

/// Places of the counters among a thread's numbers.
mod place {
    use super::{Action, Connect, Country, Hello, INGRESSES, Ingress, Reason};

    pub(super) const OPENED: usize = 0;
    pub(super) const CLOSED: usize = 1;
    pub(super) const BYTES_UP: usize = 2;
    pub(super) const BYTES_DOWN: usize = 3;
    pub(super) const NO_COUNTRY: usize = 4;
    pub(super) const SEVERAL_COUNTRIES: usize = 5;
    pub(super) const HELLOS: usize = 6;
    pub(super) const CONNECTS: usize = HELLOS + Hello::WORDS.len();
    pub(super) const UNJUDGED: usize = CONNECTS + Connect::WORDS.len();
    pub(super) const COUNTRIES: usize = UNJUDGED + INGRESSES;
    const JUDGED: usize = COUNTRIES + Country::COUNT;
    pub(super) const UNJUDGED_FINAL: usize = JUDGED + INGRESSES * Action::ALL.len() * Reason::COUNT;
    const FINAL: usize = UNJUDGED_FINAL + 1;
    /// By reason: what is let go and would not be, were the policy enforced.
    pub(super) const WOULD_BLOCK: usize = FINAL + Action::ALL.len() * Reason::COUNT;
    /// Bytes up, by country.
    pub(super) const UP_COUNTRIES: usize = WOULD_BLOCK + Reason::COUNT;
    pub(super) const UP_NO_COUNTRY: usize = UP_COUNTRIES + Country::COUNT;
    pub(super) const UP_SEVERAL_COUNTRIES: usize = UP_NO_COUNTRY + 1;
    /// Of those of no country: what is none by its nature.
    pub(super) const NO_PLACE: usize = UP_SEVERAL_COUNTRIES + 1;
    pub(super) const ALL: usize = NO_PLACE + 1;

    /// Final verdicts by action and reason.
    pub(super) const fn finished(action: usize, reason: usize) -> usize {
        FINAL + action * Reason::COUNT + reason
    }

    /// Verdicts by ingress, action and reason.
    pub(super) const fn judged(ingress: Ingress, action: usize, reason: usize) -> usize {
        JUDGED + (ingress as usize * Action::ALL.len() + action) * Reason::COUNT + reason
    }
}

const INGRESSES: usize = Ingress::ALL.len();

/// Counters of the process at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections and requests that live.
    pub live: u64,
    /// Bytes to destinations.
    pub bytes_up: u64,
    /// Bytes to clients.
    pub bytes_down: u64,
    /// Those that ended before a verdict.
    pub unjudged: u64,
    /// Verdicts that are not zero, by action and reason.
    pub verdicts: Vec<(Action, Reason, u64)>,
    /// Judged destinations by country, where they are in one; none is zero.
    pub countries: Vec<(Country, u64)>,
    /// Those that nobody can place.
    pub no_country: u64,
    /// Those that may be in several, or answer from many places.
    pub several_countries: u64,
    /// Of those that nobody can place: what has no place by its nature.
    pub no_place: u64,
}

/// Every metric of the process.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    tallies: ShardedCounters,
    /// The samples that the registry has been given already.
    given: Mutex<Vec<[Samples; BUCKETS_MAX]>>,
    taken: Taken,
}

impl Metrics {
    /// Names every metric and takes its handle. The registry is this value's own: nothing global.
    #[must_use]
    pub fn register() -> Self {
        let recorder = HISTOGRAMS
            .iter()
            .fold(PrometheusBuilder::new(), |builder, &(name, bounds)| {
                let bounds: Vec<f64> = bounds.iter().map(|&bound| seconds(bound)).collect();
                builder
                    .set_buckets_for_metric(Matcher::Full(name.to_owned()), &bounds)
                    .expect("no list of buckets above is empty")
            })
            .build_recorder();
        let handle = recorder.handle();
        with_local_recorder(&recorder, describe);
        let taken = with_local_recorder(&recorder, Taken::all);
        let tallies = ShardedCounters::new(place::ALL, &BOUNDS);
        let given = Mutex::new(vec![Default::default(); HISTOGRAMS.len()]);
        Self { recorder, handle, tallies, given, taken }
    }

    /// The text exposition of every metric.
    #[must_use]
    pub fn render(&self) -> String {
        self.collect();
        self.handle.render()
    }

    /// Moves histogram samples into their buckets; to be called about once a second.
    pub fn upkeep(&self) {
        self.collect();
        self.handle.run_upkeep();
    }

    /// Hands what the threads have counted to the registry.
    fn collect(&self) {
        // One at a time: each sample is given once.
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = self.tallies.sums();
        for ((known, now), histogram) in given.iter_mut().zip(&sums.times).zip(&self.taken.times) {
            for (known, now) in known.iter_mut().zip(now) {
                let count = now.count.wrapping_sub(known.count);
                if count > 0 {
                    // The mean of a bucket's samples lies in the bucket, and the sum is theirs.
                    let mean = now.nanos.wrapping_sub(known.nanos) as f64 / count as f64;
                    let count = usize::try_from(count).unwrap_or(usize::MAX);
                    histogram.record_many(mean / 1e9, count);
                }
                *known = *now;
            }
        }
        let sum = |at: usize| sums.counts.get(at).copied().unwrap_or(0);
        let Taken { bytes_up, bytes_down, no_country, several_countries, hello, connect, .. } =
            &self.taken;
        let Taken { up_no_country, up_several_countries, .. } = &self.taken;
        for (counter, at) in [
            (bytes_up, place::BYTES_UP),
            (bytes_down, place::BYTES_DOWN),
            (no_country, place::NO_COUNTRY),
            (several_countries, place::SEVERAL_COUNTRIES),
            (up_no_country, place::UP_NO_COUNTRY),
            (up_several_countries, place::UP_SEVERAL_COUNTRIES),
        ] {
            counter.absolute(sum(at));
        }
        for (counters, first) in [(&hello[..], place::HELLOS), (&connect[..], place::CONNECTS)] {
            for (at, counter) in counters.iter().enumerate() {
                counter.absolute(sum(first + at));
            }
        }
        // A thread may have closed what was opened on another, between two looks.
        let active = sum(place::OPENED).saturating_sub(sum(place::CLOSED));
        self.taken.active.set(active as f64);
        with_local_recorder(&self.recorder, || collect_series(sum));
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let sums = self.tallies.sums();
        let sum = |at: usize| sums.counts.get(at).copied().unwrap_or(0);
        let of_ingresses =
            |at: &dyn Fn(Ingress) -> usize| Ingress::ALL.iter().map(|of| sum(at(*of))).sum();
        let mut verdicts = Vec::new();
        for action in Action::ALL {
            for reason in Reason::ALL {
                let at = |of| place::judged(of, action as usize, reason.index());
                let count: u64 = of_ingresses(&at);
                if count > 0 {
                    verdicts.push((action, reason, count));
                }
            }
        }
        let countries = Country::all()
            .map(|country| (country, sum(place::COUNTRIES + country.index())))
            .filter(|(_, count)| *count > 0)
            .collect();
        Counts {
            live: sum(place::OPENED).saturating_sub(sum(place::CLOSED)),
            bytes_up: sum(place::BYTES_UP),
            bytes_down: sum(place::BYTES_DOWN),
            unjudged: of_ingresses(&|of| place::UNJUDGED + of as usize),
            verdicts,
            countries,
            no_country: sum(place::NO_COUNTRY),
            several_countries: sum(place::SEVERAL_COUNTRIES),
            no_place: sum(place::NO_PLACE),
        }
    }

    /// A verdict on a connection that came in by `ingress`.
    pub fn judged(&self, ingress: Ingress, verdict: &Verdict) {
        let [action, reason] = [verdict.action() as usize, verdict.reason().index()];
        self.tallies.count(place::judged(ingress, action, reason), 1);
        if verdict.would() == Some(Action::Block) {
            self.tallies.count(place::WOULD_BLOCK + reason, 1);
        }
    }

    /// A connection that ended before a verdict.
    pub fn unjudged(&self, ingress: Ingress) {
        self.tallies.count(place::UNJUDGED + ingress as usize, 1);
    }

    /// Where a judged destination is: its country, `other` for several (or anycast), `unknown`.
    pub fn located(&self, codes: CountrySet, anycast: bool) {
        let at = match in_one_country(codes, anycast) {
            Ok(country) => place::COUNTRIES + country.index(),
            Err(Elsewhere::Nowhere) => place::NO_COUNTRY,
            Err(Elsewhere::Several) => place::SEVERAL_COUNTRIES,
        };
        self.tallies.count(at, 1);
    }

    /// Nobody can place a destination, and nobody is in doubt: it is no public address, or none yet.
    pub fn is_nowhere(&self) {
        self.tallies.count(place::NO_PLACE, 1);
    }

    /// A connection to a destination there ended, and its client had sent so many bytes.
    pub fn sent_up(&self, codes: CountrySet, anycast: bool, up: u64) {
        let at = match in_one_country(codes, anycast) {
            Ok(country) => place::UP_COUNTRIES + country.index(),
            Err(Elsewhere::Nowhere) => place::UP_NO_COUNTRY,
            Err(Elsewhere::Several) => place::UP_SEVERAL_COUNTRIES,
        };
        self.tallies.count(at, up);
    }

    /// One connection more at once.
    pub fn opened(&self) {
        self.tallies.count(place::OPENED, 1);
    }

    /// One connection fewer, after `lasted`; these bytes up and down were not counted yet.
    pub fn closed(&self, lasted: Duration, bytes: (u64, u64)) {
        self.tallies.count(place::CLOSED, 1);
        self.forwarded(bytes);
        self.time(Time::Duration, lasted);
    }

    /// So many bytes more were forwarded, up and down.
    pub fn forwarded(&self, (up, down): (u64, u64)) {
        self.tallies.count(place::BYTES_UP, up);
        self.tallies.count(place::BYTES_DOWN, down);
    }

    /// A record was closed with this verdict, or none.
    pub fn finished(&self, verdict: Option<&Verdict>) {
        let at = verdict.map_or(place::UNJUDGED_FINAL, |verdict| {
            place::finished(verdict.action() as usize, verdict.reason().index())
        });
        self.tallies.count(at, 1);
    }

    /// A first flight was read, `waited` after the connection came in.
    pub fn hello(&self, result: Hello, waited: Duration) {
        self.tallies.count(place::HELLOS + result as usize, 1);
        self.time(Time::HelloWait, waited);
    }

    /// The policy took `took` for one answer.
    pub fn decided(&self, took: Duration) {
        self.time(Time::Decision, took);
    }

    /// A connect ended, `took` after it began.
    pub fn connected(&self, result: Connect, took: Duration) {
        self.tallies.count(place::CONNECTS + result as usize, 1);
        self.time(Time::Connect, took);
    }

    fn time(&self, which: Time, took: Duration) {
        self.tallies.time(which as usize, took);
    }

    /// A limit was reached.
    pub fn limit_hit(&self, limit: Limit) {
        self.taken.limit[limit as usize].increment(1);
    }

    /// A probe of the capture arrived.
    pub fn probed(&self, probed: Probed) {
        self.taken.probed[probed as usize].increment(1);
    }

    /// The lane lost something, and let nothing pass for it.
    pub fn lane_lost(&self, what: LaneLoss) {
        self.taken.lane_lost[what as usize].increment(1);
    }

    /// A UDP datagram, or the answer to one, was dropped.
    pub fn dropped(&self, cause: Dropped) {
        self.taken.dropped[cause as usize].increment(1);
    }

    /// A question to the gateway's own name server was settled.
    pub fn dns(&self, result: DnsQuery) {
        self.taken.dns[result as usize].increment(1);
    }

    /// A client asked for a name server of its own choice, by its port.
    pub fn resolver_bypass(&self, action: Action) {
        self.taken.bypass[action as usize].increment(1);
    }

    /// One source was refused many different names.
    pub fn many_names(&self) {
        self.taken.many_names.increment(1);
    }

    /// An accept(2) failed.
    pub fn accept_failed(&self, class: Accept) {
        self.taken.accept[class as usize].increment(1);
    }

    /// A line of the record was lost.
    pub fn audit_lost(&self) {
        self.taken.audit_lost.increment(1);
    }

    /// How the record fares.
    #[expect(clippy::disallowed_macros, reason = "one of the two places that name metrics")]
    pub fn audit(&self, status: &Status) {
        let Status { fault, records, gaps, bytes, head_size, head_time, registered, .. } = status;
        with_local_recorder(&self.recorder, || {
            gauge!("schengate_audit_writing").set(if fault.is_none() { 1.0 } else { 0.0 });
            counter!("schengate_audit_records_total").absolute(*records);
            counter!("schengate_audit_gaps_total").absolute(*gaps);
            gauge!("schengate_audit_bytes").set(*bytes as f64);
            gauge!("schengate_audit_head_size").set(*head_size as f64);
            gauge!("schengate_audit_head_timestamp_seconds").set(*head_time as f64);
            if let Some(registered) = registered {
                gauge!("schengate_audit_registered").set(*registered as f64);
            }
        });
    }

    /// A message of the process was lost.
    pub fn message_lost(&self) {
        self.taken.messages_lost.increment(1);
    }

    /// A policy was loaded, or the load failed and the one before it stays.
    pub fn policy_reload(&self, done: bool) {
        let counter = if done { &self.taken.reload_done } else { &self.taken.reload_failed };
        counter.increment(1);
    }

    /// A load failed because a table is corrupt, empty, older than the one in use, or lost too much.
    pub fn data_refused(&self) {
        self.taken.data_refused.increment(1);
    }

    /// The policy in force was taken up now, `seconds` after 1970.
    pub fn policy_taken_up(&self, seconds: f64) {
        self.taken.policy_taken_up.set(seconds);
    }

    /// Whether a table is older than `[data] max_age`; `dataset` as in [`Metrics::data_age`].
    #[expect(clippy::disallowed_macros, reason = "one of the two places that name metrics")]
    pub fn data_stale(&self, dataset: &str, stale: bool) {
        with_local_recorder(&self.recorder, || {
            let stale = f64::from(u8::from(stale));
            gauge!("schengate_data_stale", "dataset" => dataset.to_owned()).set(stale);
        });
    }

    /// The policy in force is now `version`, instead of `before`.
    #[expect(clippy::disallowed_macros, reason = "one of the two places that name metrics")]
    pub fn policy_info(&self, version: &str, before: Option<&str>) {
        with_local_recorder(&self.recorder, || {
            if let Some(before) = before.filter(|&before| before != version) {
                gauge!("schengate_policy_info", "version" => before.to_owned()).set(0.0);
            }
            gauge!("schengate_policy_info", "version" => version.to_owned()).set(1.0);
        });
    }

    /// Age of the content of one table; `dataset` is its short name from the configuration.
    #[expect(clippy::disallowed_macros, reason = "one of the two places that name metrics")]
    pub fn data_age(&self, dataset: &str, age: Duration) {
        with_local_recorder(&self.recorder, || {
            gauge!("schengate_data_build_age_seconds", "dataset" => dataset.to_owned()).set(age);
        });
    }

    /// When the waiver of a rule ends, seconds after 1970; 0 where it holds no longer. `rule` is its name
    /// in the policy.
    #[expect(clippy::disallowed_macros, reason = "one of the two places that name metrics")]
    pub fn waiver_expires(&self, rule: &str, seconds: f64) {
        with_local_recorder(&self.recorder, || {
            let rule = rule.to_owned();
            gauge!("schengate_waiver_expires_timestamp_seconds", "rule" => rule).set(seconds);
        });
    }

    /// What the kernel carried or refused by itself since the last time; `verdict` is the labels of
    /// action and reason, `place` a country's code, `several`, `anycast` or `none`.
    #[expect(clippy::disallowed_macros, reason = "one of the two places that name metrics")]
    pub fn kernel_counted(
        &self,
        verdict: (&'static str, &'static str),
        place: &str,
        packets: u64,
        bytes: u64,
    ) {
        with_local_recorder(&self.recorder, || {
            let labels = [
                ("verdict", verdict.0.to_owned()),
                ("reason", verdict.1.to_owned()),
                ("country", place.to_owned()),
            ];
            counter!("schengate_kernel_packets_total", &labels).increment(packets);
            counter!("schengate_kernel_bytes_total", &labels).increment(bytes);
        });
    }

    /// By how many intervals the kernel judges; 0 where every connection passes the gateway.
    #[expect(clippy::disallowed_macros, reason = "one of the two places that name metrics")]
    pub fn kernel_intervals(&self, intervals: usize) {
        with_local_recorder(&self.recorder, || {
            gauge!("schengate_kernel_intervals").set(intervals as f64);
        });
    }

    /// Whether a part of the capture is as it was set.
    #[expect(clippy::disallowed_macros, reason = "one of the two places that name metrics")]
    pub fn capture_intact(&self, check: &'static str, intact: bool) {
        with_local_recorder(&self.recorder, || {
            gauge!("schengate_capture_intact", "check" => check).set(f64::from(u8::from(intact)));
        });
    }

    /// Whether the last probe of the capture was refused as it should be, by way (`tcp4` ...).
    #[expect(clippy::disallowed_macros, reason = "one of the two places that name metrics")]
    pub fn capture_probe(&self, way: &str, held: bool) {
        with_local_recorder(&self.recorder, || {
            let held = f64::from(u8::from(held));
            gauge!("schengate_capture_probe", "way" => way.to_owned()).set(held);
        });
    }

    /// How often a part of the capture was put back, since its keeper began.
    #[expect(clippy::disallowed_macros, reason = "one of the two places that name metrics")]
    pub fn capture_restored(&self, part: &str, times: u64) {
        with_local_recorder(&self.recorder, || {
            counter!("schengate_capture_restored_total", "part" => part.to_owned()).absolute(times);
        });
    }

    /// Whether the gateway takes connections.
    pub fn ready(&self, ready: bool) {
        self.taken.ready.set(f64::from(u8::from(ready)));
    }

    /// Whether the default policy is carried out or only recorded.
    pub fn enforcing(&self, enforcing: bool) {
        self.taken.enforcing.set(f64::from(u8::from(enforcing)));
    }
}

/// Why a destination counts for no country.
enum Elsewhere {
    /// Nobody knows where it is.
    Nowhere,
    /// It may be in several, or answers from many places.
    Several,
}

fn in_one_country(codes: CountrySet, anycast: bool) -> Result<Country, Elsewhere> {
    let mut codes = codes.iter();
    match (codes.next(), codes.next()) {
        (Some(country), None) if !anycast => Ok(country),
        (None, _) if !anycast => Err(Elsewhere::Nowhere),
        _ => Err(Elsewhere::Several),
    }
}

/// Hands over the counters by verdict and country. Each is there from the start, at 0: what a series
/// begins with is no increase to Prometheus, and a first burst would be missed.
#[expect(clippy::disallowed_macros, reason = "one of the two places that name metrics")]
fn collect_series(sum: impl Fn(usize) -> u64) {
    let connections = |ingress: Ingress, verdict: &'static str, reason: &'static str, at: usize| {
        counter!("schengate_connections_total",
            "mode" => ingress.label(), "verdict" => verdict, "reason" => reason)
        .absolute(sum(at));
    };
    let finals = |verdict: &'static str, reason: &'static str, at: usize| {
        counter!("schengate_verdicts_final_total", "verdict" => verdict, "reason" => reason)
            .absolute(sum(at));
    };
    finals("none", "none", place::UNJUDGED_FINAL);
    for action in Action::ALL {
        for reason in Reason::ALL {
            let at = place::finished(action as usize, reason.index());
            finals(action.label(), reason.label(), at);
        }
    }
    for ingress in Ingress::ALL {
        connections(ingress, "none", "none", place::UNJUDGED + ingress as usize);
        for action in Action::ALL {
            for reason in Reason::ALL {
                let at = place::judged(ingress, action as usize, reason.index());
                connections(ingress, action.label(), reason.label(), at);
            }
        }
    }
    for country in Country::all() {
        let count = sum(place::COUNTRIES + country.index());
        counter!("schengate_decisions_by_country_total", "country" => country.code())
            .absolute(count);
        let up = sum(place::UP_COUNTRIES + country.index());
        counter!("schengate_bytes_up_by_country_total", "country" => country.code()).absolute(up);
    }
    for reason in Reason::ALL {
        let count = sum(place::WOULD_BLOCK + reason.index());
        counter!("schengate_would_block_total", "reason" => reason.label()).absolute(count);
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use metrics::histogram;

    use super::*;
    fn verdict(action: Action, reason: Reason) -> Verdict {
        Verdict::given(action, reason, "198.51.100.1:443".parse().unwrap())
    }

    #[test]
    fn a_verdict_is_counted_under_its_own_labels() {
        let metrics = Metrics::register();
        metrics.judged(Ingress::Tproxy, &verdict(Action::Block, Reason::Outside));
        metrics.judged(Ingress::Tproxy, &verdict(Action::Block, Reason::Outside));
        metrics.unjudged(Ingress::Proxy);
        let text = metrics.render();
        let series = |labels: &str, value: u32| {
            let line = format!("schengate_connections_total{{{labels}}} {value}\n");
            assert!(text.contains(&line), "{line}{text}");
        };
        series(r#"mode="tproxy",verdict="block",reason="outside""#, 2);
        series(r#"mode="proxy",verdict="none",reason="none""#, 1);
        series(r#"mode="redirect",verdict="block",reason="overload""#, 0);
    }

    #[test]
    fn several_countries_are_other_and_none_is_unknown() {
        let metrics = Metrics::register();
        let set = |codes: &[&str]| codes.iter().filter_map(|c| Country::from_code(c)).collect();
        metrics.located(set(&["FR"]), false);
        metrics.located(set(&["FR", "DE"]), false);
        metrics.located(set(&["FR"]), true);
        metrics.located(CountrySet::EMPTY, true);
        metrics.located(CountrySet::EMPTY, false);
        metrics.sent_up(set(&["FR"]), false, 1);
        metrics.sent_up(set(&["FR", "DE"]), false, 2);
        metrics.sent_up(CountrySet::EMPTY, true, 1);
        metrics.sent_up(CountrySet::EMPTY, false, 1);
        let text = metrics.render();
        for (label, count) in [("FR", 1), ("other", 3), ("unknown", 1)] {
            let line =
                format!("schengate_decisions_by_country_total{{country=\"{label}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
            let line =
                format!("schengate_bytes_up_by_country_total{{country=\"{label}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
    }

    #[test]
    fn histograms_have_the_buckets_they_were_given() {
        let metrics = Metrics::register();
        metrics.decided(Duration::from_micros(3));
        metrics.upkeep();
        let text = metrics.render();
        assert!(text.contains(r#"schengate_decision_seconds_bucket{le="0.000002"} 0"#), "{text}");
        assert!(text.contains(r#"schengate_decision_seconds_bucket{le="0.000005"} 1"#), "{text}");
    }

    #[test]
    #[expect(clippy::disallowed_macros, reason = "a registry of the test's own")]
    fn samples_in_bulk_are_what_the_library_makes_of_each() {
        let name = "schengate_decision_seconds";
        let samples = (0..2000_u64).map(|number| Duration::from_nanos(number * number / 3 + 1));
        let metrics = Metrics::register();
        let bounds: Vec<f64> = HISTOGRAMS[0].1.iter().map(|&bound| seconds(bound)).collect();
        let reference = PrometheusBuilder::new().set_buckets(&bounds).unwrap().build_recorder();
        let single = with_local_recorder(&reference, || histogram!(name));
        for (number, sample) in samples.enumerate() {
            metrics.decided(sample);
            single.record(sample);
            if number % 500 == 0 {
                metrics.upkeep();
            }
        }
        let lines = |text: String| -> Vec<String> {
            let own = text.lines().filter(|line| line.starts_with(name));
            own.map(|line| {
                let (series, value) = line.split_once(' ').unwrap();
                // Sums of other parts differ by the last bits.
                format!("{series} {:.9}", value.parse::<f64>().unwrap())
            })
            .collect()
        };
        let expected = lines(reference.handle().render());
        assert_eq!(expected.len(), HISTOGRAMS[0].1.len() + 3);
        assert_eq!(lines(metrics.render()), expected);
        assert_eq!(lines(metrics.render()), expected, "each sample is given once");
    }

    #[test]
    fn the_connections_at_once_are_those_of_all_threads() {
        let metrics = Metrics::register();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| metrics.opened());
            }
        });
        metrics.closed(Duration::from_secs(1), (3, 5));
        let text = metrics.render();
        assert!(text.contains("schengate_connections_active 2\n"), "{text}");
        assert!(text.contains("schengate_bytes_total{direction=\"down\"} 5\n"), "{text}");
    }

    #[test]
    fn only_one_version_of_the_policy_is_in_force() {
        let metrics = Metrics::register();
        metrics.policy_info("aaaa", None);
        metrics.policy_info("bbbb", Some("aaaa"));
        let text = metrics.render();
        assert!(text.contains("schengate_policy_info{version=\"aaaa\"} 0"), "{text}");
        assert!(text.contains("schengate_policy_info{version=\"bbbb\"} 1"), "{text}");
    }
}
