//! The series that are there from the start, the buckets, and the help texts.

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use super::labels::{Accept, Connect, DnsQuery, Dropped, Hello, LaneLoss, Limit, Probed};
use super::sharded::Bounds;
use crate::policy::Action;

/// The histograms: name, and upper bounds of the buckets in nanoseconds.
pub(super) const HISTOGRAMS: [(&str, Bounds); 4] = [
    (
        "schengate_decision_seconds",
        &[1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000],
    ),
    ("schengate_hello_wait_seconds", WAITS),
    ("schengate_upstream_connect_seconds", WAITS),
    (
        "schengate_connection_duration_seconds",
        &[10 * MS, 100 * MS, 1_000 * MS, 10_000 * MS, 60_000 * MS, 600_000 * MS, 3_600_000 * MS],
    ),
];

const MS: u64 = 1_000_000;

/// How long peers are waited for.
const WAITS: Bounds = &[
    MS,
    5 * MS,
    20 * MS,
    50 * MS,
    100 * MS,
    200 * MS,
    500 * MS,
    1_000 * MS,
    3_000 * MS,
    10_000 * MS,
];

pub(super) const BOUNDS: [Bounds; 4] =
    [HISTOGRAMS[0].1, HISTOGRAMS[1].1, HISTOGRAMS[2].1, HISTOGRAMS[3].1];

/// The handles that are taken at once, so that their series are there from the start.
pub(super) struct Taken {
    pub(super) several_countries: Counter,
    pub(super) no_country: Counter,
    pub(super) up_several_countries: Counter,
    pub(super) up_no_country: Counter,
    pub(super) active: Gauge,
    pub(super) bytes_up: Counter,
    pub(super) bytes_down: Counter,
    pub(super) hello: [Counter; Hello::WORDS.len()],
    pub(super) connect: [Counter; Connect::WORDS.len()],
    pub(super) limit: [Counter; Limit::WORDS.len()],
    pub(super) probed: [Counter; Probed::WORDS.len()],
    pub(super) accept: [Counter; Accept::WORDS.len()],
    pub(super) lane_lost: [Counter; LaneLoss::WORDS.len()],
    pub(super) dropped: [Counter; Dropped::WORDS.len()],
    pub(super) dns: [Counter; DnsQuery::WORDS.len()],
    pub(super) bypass: [Counter; 3],
    pub(super) many_names: Counter,
    pub(super) audit_lost: Counter,
    pub(super) messages_lost: Counter,
    pub(super) reload_done: Counter,
    pub(super) reload_failed: Counter,
    pub(super) data_refused: Counter,
    pub(super) policy_taken_up: Gauge,
    pub(super) ready: Gauge,
    pub(super) enforcing: Gauge,
    /// In the order of [`HISTOGRAMS`].
    pub(super) times: [Histogram; HISTOGRAMS.len()],
}

impl Taken {
    #[expect(clippy::disallowed_macros, reason = "one of the two places that name metrics")]
    pub(super) fn all() -> Self {
        let country = |label| counter!("schengate_decisions_by_country_total", "country" => label);
        let up = |label| counter!("schengate_bytes_up_by_country_total", "country" => label);
        let bytes = |label| counter!("schengate_bytes_total", "direction" => label);
        let reload = |label| counter!("schengate_policy_reload_total", "result" => label);
        gauge!("schengate_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Self {
            several_countries: country("other"),
            no_country: country("unknown"),
            up_several_countries: up("other"),
            up_no_country: up("unknown"),
            active: gauge!("schengate_connections_active"),
            bytes_up: bytes("up"),
            bytes_down: bytes("down"),
            hello: Hello::WORDS
                .map(|label| counter!("schengate_hello_parse_total", "result" => label)),
            connect: Connect::WORDS
                .map(|label| counter!("schengate_upstream_connect_total", "result" => label)),
            limit: Limit::WORDS
                .map(|label| counter!("schengate_limits_hit_total", "limit" => label)),
            probed: Probed::WORDS.map(|label| counter!("schengate_probes_total", "proto" => label)),
            lane_lost: LaneLoss::WORDS
                .map(|label| counter!("schengate_lane_lost_total", "what" => label)),
            accept: Accept::WORDS
                .map(|label| counter!("schengate_accept_errors_total", "class" => label)),
            dropped: Dropped::WORDS
                .map(|label| counter!("schengate_udp_dropped_total", "cause" => label)),
            dns: DnsQuery::WORDS
                .map(|label| counter!("schengate_dns_queries_total", "result" => label)),
            bypass: [Action::Allow, Action::Log, Action::Block].map(
                |action| counter!("schengate_resolver_bypass_total", "verdict" => action.label()),
            ),
            many_names: counter!("schengate_many_refused_names_total"),
            audit_lost: counter!("schengate_audit_lost_total"),
            messages_lost: counter!("schengate_messages_lost_total"),
            reload_done: reload("done"),
            reload_failed: reload("failed"),
            data_refused: counter!("schengate_data_refused_total"),
            policy_taken_up: gauge!("schengate_policy_loaded_timestamp_seconds"),
            ready: gauge!("schengate_ready"),
            enforcing: gauge!("schengate_enforcing"),
            times: HISTOGRAMS.map(|(name, _)| histogram!(name)),
        }
    }
}

/// The help texts.
pub(super) fn describe() {
    describe_counter!(
        "schengate_connections_total",
        "Verdicts on connections and proxy requests; a tunnel whose first bytes change the verdict \
         counts again; verdict none: ended before a verdict."
    );
    describe_counter!(
        "schengate_verdicts_final_total",
        "Final lines of the record, by the verdict and reason that they have; verdict none: ended \
         before a verdict."
    );
    describe_counter!(
        "schengate_decisions_by_country_total",
        "Decision destinations by country; other: several or anycast."
    );
    describe_counter!(
        "schengate_bytes_up_by_country_total",
        "Bytes from clients by the destination's country, counted when a connection ends; other: \
         several or anycast."
    );
    describe_counter!(
        "schengate_would_block_total",
        "Verdicts that let go what would be refused, were the policy enforced, by reason."
    );
    describe_gauge!(
        "schengate_waiver_expires_timestamp_seconds",
        "When a waiver that holds ends, by its rule; 0: it holds no longer."
    );
    describe_gauge!("schengate_connections_active", "Connections and requests at once.");
    describe_counter!(
        "schengate_bytes_total",
        "Bytes forwarded, at most 20 s after they were; up: from the client."
    );
    describe_counter!("schengate_hello_parse_total", "First flights read, by result.");
    describe_counter!("schengate_upstream_connect_total", "Connects to destinations, by result.");
    describe_counter!("schengate_limits_hit_total", "Limits reached, by limit.");
    describe_counter!(
        "schengate_probes_total",
        "Probes of the capture that arrived and were refused."
    );
    describe_gauge!(
        "schengate_capture_probe",
        "1 where the last probe of the capture was refused as it should be, by way."
    );
    describe_counter!(
        "schengate_capture_restored_total",
        "How often a part of the capture was taken away and put back, by part."
    );
    describe_counter!("schengate_accept_errors_total", "Failed accept calls, by class.");
    describe_counter!(
        "schengate_udp_dropped_total",
        "UDP datagrams, or answers to refused ones, that were dropped, by cause."
    );
    describe_counter!(
        "schengate_resolver_bypass_total",
        "Connections to a name server of the client's own choice (ports 53 and 853), by verdict."
    );
    describe_counter!(
        "schengate_many_refused_names_total",
        "Sources that were refused 50 different names within 10 minutes."
    );
    describe_counter!(
        "schengate_dns_queries_total",
        "Questions to the gateway's own name server, by result."
    );
    describe_counter!(
        "schengate_lane_lost_total",
        "Packets and messages of the kernel that the lane lost; none of them was let pass."
    );
    describe_counter!("schengate_audit_lost_total", "Lines of the record that were lost.");
    describe_gauge!("schengate_audit_writing", "1 where the record of [audit] is written.");
    describe_counter!("schengate_audit_records_total", "Records in the log of [audit].");
    describe_counter!(
        "schengate_audit_gaps_total",
        "Records of [audit] that say that lines were lost."
    );
    describe_gauge!(
        "schengate_audit_bytes",
        "Bytes of the log of [audit] on the disk, summed up every ten seconds."
    );
    describe_gauge!(
        "schengate_audit_registered",
        "Records of [audit] that the transfer register has read."
    );
    describe_gauge!("schengate_audit_head_size", "Records under the last signed checkpoint.");
    describe_gauge!(
        "schengate_audit_head_timestamp_seconds",
        "When the last checkpoint was signed, seconds since 1970."
    );
    describe_counter!(
        "schengate_messages_lost_total",
        "Messages of the process, no lines of the record, that were lost."
    );
    describe_counter!("schengate_policy_reload_total", "Loads of the policy, by result.");
    describe_gauge!("schengate_policy_info", "1 for the version of the policy in force.");
    describe_gauge!("schengate_data_build_age_seconds", "Age of a table's content.");
    describe_gauge!("schengate_data_stale", "1 where a table is older than [data] max_age.");
    describe_counter!(
        "schengate_data_refused_total",
        "Loads refused for a table: corrupt, empty, older than the one in use, or too much lost."
    );
    describe_gauge!(
        "schengate_policy_loaded_timestamp_seconds",
        "When the policy in force and its tables were taken up, seconds since 1970."
    );
    describe_gauge!("schengate_ready", "1 where the gateway takes connections.");
    describe_gauge!("schengate_enforcing", "1 where the default policy is carried out.");
    describe_counter!(
        "schengate_kernel_packets_total",
        "Packets that the kernel forwarded or refused by itself, both directions."
    );
    describe_counter!(
        "schengate_kernel_bytes_total",
        "Bytes of these packets, IP headers included."
    );
    describe_gauge!(
        "schengate_kernel_intervals",
        "Intervals by which the kernel judges by itself."
    );
    describe_gauge!("schengate_capture_intact", "1 where a part of the capture is as it was set.");
    describe_gauge!("schengate_build_info", "1 for the version of the program.");
    describe_histogram!("schengate_decision_seconds", "Time the policy took for an answer.");
    describe_histogram!("schengate_hello_wait_seconds", "Time until a first flight was read.");
    describe_histogram!("schengate_upstream_connect_seconds", "Time a connect took.");
    describe_histogram!("schengate_connection_duration_seconds", "Life of a connection.");
}
