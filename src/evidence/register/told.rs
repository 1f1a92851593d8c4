//! What a record says of a transfer, as far as the register sums it up.

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// What sums are kept by, beside the hour and the name: the columns of the table `label`.
pub const LABELS: [&str; 10] = [
    "group_name",
    "location",
    "operator",
    "law",
    "basis",
    "rule",
    "verdict",
    "reason",
    "listener",
    "transport",
];

/// The values of [`LABELS`]; empty where there is none.
pub type Label = [Box<str>; LABELS.len()];

/// Seconds of an hour.
const HOUR: i64 = 3600;

/// What a record is to the register.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and most are the large one")]
pub(super) enum Told {
    /// It is of a connection, a request or a flow.
    Transfer(Transfer),
    /// The gateway began to take connections, as the run of this name.
    Start(String),
    /// Nothing to sum up.
    Other,
}

/// Where a transfer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It was let go.
    Open,
    /// It lives.
    Update,
    /// It ended, or never began.
    Final,
}

/// A record of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) stage: Stage,
    pub(super) id: String,
    /// Milliseconds since 1970.
    pub(super) at: i64,
    /// What it is summed up by; an update says it where the connection was judged again, and then of
    /// what moves from there on.
    pub(super) label: Option<Label>,
    /// The name; empty where there is none.
    pub(super) name: Box<str>,
    /// Bytes to the destination and to the client, from its beginning.
    pub(super) bytes: (u64, u64),
    /// How many the record stands for, and when the first of them was.
    pub(super) times: u64,
    pub(super) first: i64,
    /// It ended, and was measured to be nearer than every country of its location.
    pub(super) is_contradicted: bool,
}

impl Transfer {
    /// The hour that it is counted in, as the second in which it begins.
    pub(super) const fn hour(&self) -> i64 {
        self.at.div_euclid(1000).div_euclid(HOUR) * HOUR
    }

    /// What a connection of this label is summed up by from here on: an update says nothing of the way
    /// in, which stays.
    pub(super) fn relabelled(&self, before: &Label) -> Label {
        let mut label = self.label.clone().unwrap_or_else(|| before.clone());
        for ((part, name), was) in label.iter_mut().zip(LABELS).zip(before) {
            if self.stage == Stage::Update && matches!(name, "listener" | "transport") {
                part.clone_from(was);
            }
        }
        label
    }

    /// The run of the gateway that it is of.
    pub(super) fn run(&self) -> &str {
        run(&self.id)
    }
}

/// The run in an event id: all that stands before the number.
pub(super) fn run(id: &str) -> &str {
    id.rsplit_once('-').map_or(id, |(run, _)| run)
}

/// The fields that are read; the others are passed over.
#[derive(Deserialize)]
struct Fields<'a> {
    event: &'a str,
    id: Option<String>,
    time: Option<&'a str>,
    host: Option<String>,
    group: Option<String>,
    #[serde(borrow)]
    location: Option<Vec<&'a str>>,
    anycast: Option<bool>,
    operator: Option<String>,
    #[serde(borrow)]
    law: Option<Vec<&'a str>>,
    basis: Option<String>,
    rule: Option<String>,
    verdict: Option<&'a str>,
    reason: Option<&'a str>,
    listener: Option<&'a str>,
    transport: Option<&'a str>,
    bytes_up: Option<u64>,
    bytes_down: Option<u64>,
    count: Option<u64>,
    first: Option<serde_json::Value>,
    rtt_contradicts: Option<IgnoredAny>,
}

/// Reads a record; `None` where it is not one.
pub(super) fn told(line: &[u8]) -> Option<Told> {
    let fields: Fields<'_> = serde_json::from_slice(line).ok()?;
    let stage = match fields.event {
        "open" => Stage::Open,
        "update" => Stage::Update,
        "close" | "refused" | "unjudged" | "asked" => Stage::Final,
        "start" => return Some(Told::Start(run(&fields.id?).to_owned())),
        _ => return Some(Told::Other),
    };
    let at = fields.time?.parse::<Timestamp>().ok()?.as_millisecond();
    let first = fields.first.as_ref().and_then(|first| first.as_str()?.parse::<Timestamp>().ok());
    let mut location = fields.location.unwrap_or_default();
    if fields.anycast == Some(true) {
        location.push("anycast");
    }
    let is_judged = stage != Stage::Update || fields.verdict.is_some();
    let label = is_judged.then(|| {
        let text = |text: Option<String>| text.unwrap_or_default().into_boxed_str();
        let word = |word: Option<&str>| Box::from(word.unwrap_or_default());
        [
            text(fields.group),
            location.join(" ").into(),
            text(fields.operator),
            fields.law.unwrap_or_default().join(" ").into(),
            text(fields.basis),
            text(fields.rule),
            word(fields.verdict),
            word(fields.reason),
            word(fields.listener),
            word(fields.transport),
        ]
    });
    Some(Told::Transfer(Transfer {
        stage,
        id: fields.id?,
        at,
        label,
        name: fields.host.unwrap_or_default().into(),
        bytes: (fields.bytes_up.unwrap_or(0), fields.bytes_down.unwrap_or(0)),
        times: fields.count.unwrap_or(1),
        first: first.map_or(at, Timestamp::as_millisecond),
        is_contradicted: stage == Stage::Final && fields.rtt_contradicts.is_some(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_what_it_is_summed_up_by() {
        let line = br#"{"seq":3,"event":"close","id":"19a-7","time":"2026-11-30T10:59:59.999Z","host":"a.example",
            "location":["DE","FR"],"anycast":true,"operator":"o \"1\"","law":["DE"],"group":"g","rule":null,
            "verdict":"allow","reason":"permitted","listener":"proxy","transport":"tcp","bytes_up":3,"bytes_down":4}"#;
        let Some(Told::Transfer(read)) = told(line) else { panic!() };
        assert_eq!((read.stage, read.run(), &*read.name), (Stage::Final, "19a", "a.example"));
        assert_eq!((read.at - read.hour() * 1000, read.bytes), (3_599_999, (3, 4)));
        let label = read.label.unwrap();
        let label: Vec<&str> = label.iter().map(|part| &**part).collect();
        let wanted =
            ["g", "DE FR anycast", "o \"1\"", "DE", "", "", "allow", "permitted", "proxy", "tcp"];
        assert_eq!(label, wanted);
        assert_eq!(told(br#"{"event":"start","id":"19a-1"}"#), Some(Told::Start("19a".to_owned())));
        assert_eq!(told(br#"{"event":"segment"}"#), Some(Told::Other));
        for bad in [&b"{"[..], b"{}", b"\xff", br#"{"event":"open","time":"never","id":"1-1"}"#] {
            assert_eq!(told(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn hours_before_1970_begin_before_what_is_in_them() {
        let at = |at| Transfer {
            stage: Stage::Update,
            id: String::new(),
            at,
            label: None,
            name: Box::from(""),
            bytes: (0, 0),
            times: 1,
            first: at,
            is_contradicted: false,
        };
        assert_eq!((at(-1).hour(), at(0).hour(), at(3_600_000).hour()), (-3600, 0, 3600));
    }
}
