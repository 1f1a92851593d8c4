//! Zones: the built-in ones, dated; those of the file; and what a list of them holds at an instant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use jiff::Timestamp;

use super::codes;
use super::error::Wrong;
use super::model::{DatedMember, Members, Term, Zone, ZoneList, Zones};
use super::reader::{Item, Reader, Table};
use crate::control::data::zone_rows;
use crate::control::spelling::nearest;
use crate::policy::{Country, CountrySet};

/// Zones of its own that a file may have; also bounds how deep they can nest.
const OWN_ZONES_MAX: usize = 1_000;

/// Reserved codes that stand for a part of a country: the Canaries, Ceuta and Melilla,
/// metropolitan France.
const PARTS: [(&str, &str); 3] = [("EA", "ES"), ("FX", "FR"), ("IC", "ES")];

/// Codes that were withdrawn from ISO 3166-1 and what took their place, so that an old list is
/// answered with more than "unknown".
const WITHDRAWN: [(&str, &str); 14] = [
    ("AN", "\"BQ\", \"CW\" or \"SX\""),
    ("BU", "\"MM\""),
    ("CS", "\"RS\" or \"ME\" (or \"CZ\" or \"SK\", in a list from before 1993)"),
    ("DD", "\"DE\""),
    ("DY", "\"BJ\""),
    ("HV", "\"BF\""),
    ("NH", "\"VU\""),
    ("NT", "\"IQ\" or \"SA\""),
    ("RH", "\"ZW\""),
    ("SU", "the states that followed, \"RU\" among them"),
    ("TP", "\"TL\""),
    ("VD", "\"VN\""),
    ("YU", "\"RS\", \"ME\", \"HR\", \"SI\", \"BA\" or \"MK\""),
    ("ZR", "\"CD\""),
];

/// Members whose decision covers some recipients only stand in a zone of their own: those of
/// `gdpr-adequacy` in `gdpr-adequacy-partial`. A zone by its plain name holds full decisions only.
const PARTIAL: &str = "-partial";

/// Built-in names that stand for other zones and codes, and what an address does not show of what
/// is meant by them.
static ALIASES: [(&str, &[&str], &str); 5] = [
    (
        "eu-data-boundary",
        &["eu", "CH", "IS", "LI", "NO"],
        "it is where Microsoft says that data of its boundary is kept; what leaves it by exception, \
         an address does not show",
    ),
    ("gdpr", &["eea"], "it is where the GDPR applies directly"),
    (
        "gdpr-free-flow",
        &["eea", "gdpr-adequacy"],
        "it holds the full decisions only; what is partial needs rules with a `basis`",
    ),
    (
        "hds",
        &["eea"],
        "it is where HDS lets health data be hosted; whether a host is certified, an address does \
         not show",
    ),
    (
        "secnumcloud",
        &["eu"],
        "it is where SecNumCloud lets data be held; that no foreign law reaches the holder is for \
         `permit_law` to ask",
    ),
];

struct BuiltIn {
    zones: Vec<Zone>,
    /// Members of each zone that stand there for some recipients only.
    partial: BTreeMap<String, CountrySet>,
    /// Sets of which no member has a country code.
    hollow: BTreeSet<String>,
}

static BUILT_IN: LazyLock<BuiltIn> = LazyLock::new(|| {
    let mut sets: BTreeMap<String, Vec<DatedMember>> = BTreeMap::new();
    let mut partial: BTreeMap<String, CountrySet> = BTreeMap::new();
    for row in zone_rows() {
        let mut set = row.set;
        if row.partial {
            set.push_str(PARTIAL);
        }
        let (since, until, source) = (row.since, row.until, row.source);
        let member = row.country.map(|country| DatedMember { country, since, until, source });
        if let Some(member) = member.as_ref().filter(|_| row.partial) {
            partial.entry(set.clone()).or_default().insert(member.country);
        }
        sets.entry(set).or_default().extend(member);
    }
    let (zones, hollow): (Vec<_>, Vec<_>) =
        sets.into_iter().partition(|(_, members)| !members.is_empty());
    let zone = |(name, members)| Zone { name, members: Members::Dated(members) };
    let hollow = hollow.into_iter().map(|(name, _)| name).collect();
    let mut zones: Vec<Zone> = zones.into_iter().map(zone).collect();
    let names = Names::new(&zones);
    zones.extend(ALIASES.iter().map(|&(name, members, _)| {
        // A test holds that every member is known.
        let plus = members.iter().filter_map(|member| names.plain(member)).collect();
        Zone { name: name.to_owned(), members: Members::List(ZoneList { plus, minus: vec![] }) }
    }));
    BuiltIn { zones, partial, hollow }
});

/// The built-in zones, by name (`config/facts/jurisdiction-sets.csv`).
#[must_use]
pub fn built_in() -> Vec<Zone> {
    BUILT_IN.zones.clone()
}

/// Whether a zone of this name is built in; no zone of a file has such a name.
#[must_use]
pub fn is_built_in(name: &str) -> bool {
    BUILT_IN.zones.iter().any(|zone| zone.name == name)
}

impl Zones {
    /// The countries of `list` at an instant: the union of its positive members less the union of
    /// its negative ones.
    #[must_use]
    pub fn resolve(&self, list: &ZoneList, at: Timestamp) -> CountrySet {
        self.list(list, at, &mut vec![None; self.all.len()])
    }

    fn list(&self, list: &ZoneList, at: Timestamp, seen: &mut [Option<CountrySet>]) -> CountrySet {
        let mut union = |terms: &[Term]| {
            let mut set = CountrySet::EMPTY;
            terms.iter().for_each(|&term| set |= self.term(term, at, seen));
            set
        };
        let (plus, minus) = (union(&list.plus), union(&list.minus));
        plus & !minus
    }

    /// `seen` holds each zone's answer once it is known: zones that share members are resolved
    /// once, and one that held itself would be empty instead of endless.
    fn term(&self, term: Term, at: Timestamp, seen: &mut [Option<CountrySet>]) -> CountrySet {
        let index = match term {
            Term::Everywhere => return CountrySet::all(),
            Term::Country(country) => return CountrySet::from_iter([country]),
            Term::Zone(index) => index,
        };
        if let Some(&Some(known)) = seen.get(index) {
            return known;
        }
        let remember = |seen: &mut [Option<CountrySet>], set| {
            if let Some(slot) = seen.get_mut(index) {
                *slot = Some(set);
            }
        };
        remember(seen, CountrySet::EMPTY);
        let set = match self.all.get(index).map(|zone| &zone.members) {
            None => CountrySet::EMPTY,
            Some(Members::List(list)) => self.list(list, at, seen),
            Some(Members::Dated(members)) => {
                let holds = |member: &&DatedMember| {
                    member.since.is_none_or(|since| since <= at)
                        && member.until.is_none_or(|until| at < until)
                };
                members.iter().filter(holds).map(|member| member.country).collect()
            }
        };
        remember(seen, set);
        set
    }

    /// Every instant at which the countries of `list` change, in order.
    pub fn boundaries(&self, list: &ZoneList) -> impl Iterator<Item = Timestamp> {
        let mut instants = BTreeSet::new();
        for index in self.reached(list) {
            if let Some(Zone { members: Members::Dated(members), .. }) = self.all.get(index) {
                instants.extend(members.iter().flat_map(|member| [member.since, member.until]));
            }
        }
        let mut before = self.resolve(list, Timestamp::MIN);
        instants.into_iter().flatten().filter(move |&at| {
            let now = self.resolve(list, at);
            std::mem::replace(&mut before, now) != now
        })
    }

    /// What says that `country` is in a zone that `list` reaches at some time from `since` to before
    /// `until`, each source once; nothing where the file itself names the country.
    #[must_use]
    pub fn sources(
        &self,
        list: &ZoneList,
        country: Country,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Vec<&str> {
        let before = |a: Option<Timestamp>, b: Option<Timestamp>| match (a, b) {
            (Some(a), Some(b)) => a < b,
            (None, _) | (_, None) => true,
        };
        let mut sources = Vec::new();
        for index in self.reached(list) {
            let Some(Zone { members: Members::Dated(members), .. }) = self.all.get(index) else {
                continue;
            };
            let of_country = members.iter().filter(|member| member.country == country);
            for member in of_country {
                let meets = before(member.since, until) && before(since, member.until);
                if meets && !sources.contains(&member.source.as_str()) {
                    sources.push(member.source.as_str());
                }
            }
        }
        sources
    }

    /// The built-in names in `list` that stand for others: name, what they stand for, and what an
    /// address does not show of what is meant.
    pub(super) fn aliases(
        &self,
        list: &ZoneList,
    ) -> impl Iterator<Item = (&'static str, String, &'static str)> {
        let named: Vec<_> = zones_of(list)
            .into_iter()
            .filter_map(|index| self.all.get(index))
            .filter_map(|zone| ALIASES.iter().find(|alias| alias.0 == zone.name))
            .collect();
        named.into_iter().map(|&(name, members, hint)| (name, members.join(", "), hint))
    }

    /// The zones that `list` names, and those that they name in turn.
    pub(super) fn reached(&self, list: &ZoneList) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut open = zones_of(list);
        while let Some(index) = open.pop() {
            if reached.insert(index)
                && let Some(Zone { members: Members::List(list), .. }) = self.all.get(index)
            {
                open.extend(zones_of(list));
            }
        }
        reached
    }

    /// The countries of `list` at an instant that a zone lists for some recipients only, and that
    /// zone's name; the first such zone.
    pub(super) fn partial_adequacy(
        &self,
        list: &ZoneList,
        at: Timestamp,
    ) -> Option<(&str, CountrySet)> {
        let held = self.resolve(list, at);
        self.reached(list).into_iter().find_map(|index| {
            let zone = self.all.get(index)?;
            let partial = *BUILT_IN.partial.get(&zone.name)? & held;
            (!partial.is_empty()).then_some((zone.name.as_str(), partial))
        })
    }
}

fn zones_of(list: &ZoneList) -> Vec<usize> {
    let zone = |term: &Term| match term {
        Term::Zone(index) => Some(*index),
        Term::Everywhere | Term::Country(_) => None,
    };
    list.plus.iter().chain(&list.minus).filter_map(zone).collect()
}

/// The names that a list may use.
pub(super) struct Names {
    index: BTreeMap<String, usize>,
}

impl Names {
    fn new(zones: &[Zone]) -> Self {
        let index = zones.iter().enumerate().map(|(i, zone)| (zone.name.clone(), i)).collect();
        Self { index }
    }

    /// A zone or a code that is sound as it stands.
    fn plain(&self, text: &str) -> Option<Term> {
        let zone = self.index.get(text).map(|&index| Term::Zone(index));
        zone.or_else(|| Country::from_code(text).map(Term::Country))
    }

    /// A member without its sign.
    fn term(&self, text: &str) -> Result<Term, Wrong> {
        if text == "*" {
            return Ok(Term::Everywhere);
        }
        if let Some(&index) = self.index.get(text) {
            return Ok(Term::Zone(index));
        }
        if let Some(country) = country(text) {
            if text.bytes().all(|byte| byte.is_ascii_uppercase()) {
                return Ok(Term::Country(country));
            }
            let what = format!("no zone is called {text:?}; a country code is in upper case");
            // In lower case it is a slip for a zone sooner than a code for a part of a country.
            let is_part = PARTS.iter().any(|&(part, _)| text.eq_ignore_ascii_case(part));
            let zones = self.index.keys().map(String::as_str);
            let help = match nearest(text, zones).filter(|_| is_part) {
                Some(zone) => format!("did you mean the zone \"{zone}\"?"),
                None => format!("write \"{country}\""),
            };
            return Err(Wrong::new(what, help));
        }
        Err(self.unknown(text))
    }

    fn unknown(&self, text: &str) -> Wrong {
        let upper = text.to_ascii_uppercase();
        let lower = text.to_ascii_lowercase();
        let zone = self.index.contains_key(&lower).then_some(lower.as_str());
        if let Some(&(code, instead)) = WITHDRAWN.iter().find(|&&(code, _)| code == upper) {
            return Wrong::new(
                format!("the code {code} was withdrawn"),
                format!("write {instead}"),
            );
        }
        if BUILT_IN.hollow.contains(&lower) {
            return Wrong::new(
                format!("no member of {lower:?} has a country code, so no address is ever in it"),
                "write the AS numbers or prefixes that are meant, in a rule",
            );
        }
        if upper.len() == 2 && zone.is_some() {
            return Wrong::new(
                format!("{text:?} is not a country"),
                format!("did you mean the zone \"{lower}\"?"),
            );
        }
        let no_country = ["AP", "A1", "A2", "O1", "T1", "XX", "ZZ", "XC", "XD"];
        if no_country.contains(&upper.as_str()) {
            return Wrong::new(
                format!("{upper} is not a country; tables use it where they do not know one"),
                "write codes or zones; [policy.on] unknown says what becomes of the rest",
            );
        }
        if let Some(code) = codes::meant(text) {
            let what = format!("{text:?} is not a code of two letters");
            return Wrong::new(what, format!("write \"{code}\""));
        }
        if self.index.is_empty() {
            let what = format!("{text:?} is not a country");
            return Wrong::new(what, "write an ISO 3166-1 code (\"FR\")");
        }
        let zone = zone.or_else(|| nearest(text, self.index.keys().map(String::as_str)));
        let help = match zone {
            Some(zone) => format!("did you mean the zone \"{zone}\"?"),
            None => "write an ISO 3166-1 code (\"FR\"), a built-in zone (\"eea\") or one of \
                     [zones]"
                .to_owned(),
        };
        Wrong::new(format!("{text:?} is neither a country nor a zone"), help)
    }
}

/// The country of a code in either case, the reserved codes for parts of one included.
fn country(text: &str) -> Option<Country> {
    let upper = text.to_ascii_uppercase();
    let part = PARTS.iter().find(|&&(part, _)| part == upper).map(|&(_, whole)| whole);
    Country::from_code(part.unwrap_or(&upper))
}

/// A list of zones and codes.
pub(super) fn zone_list(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    names: &Names,
) -> Option<ZoneList> {
    let help = "write a list of zones and country codes: [\"eea\", \"CH\"]";
    let members = reader.list(item, help)?;
    let terms = reader.each(&members, |reader, member| {
        let text = reader.string(member, help)?;
        let (negative, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
        if negative && name == "*" {
            reader.fault(member, "\"-*\" takes out everything", "name the zones that are meant");
            return None;
        }
        let term = names.term(name);
        reader.keep(member, term).map(|term| (negative, term))
    })?;
    let side = |negative| {
        let on_side = terms.iter().filter(|&&(sign, _)| sign == negative);
        on_side.map(|&(_, term)| term).collect()
    };
    let list = ZoneList { plus: side(false), minus: side(true) };
    if list.plus.is_empty() {
        let help = "name what they are taken out of, \"*\" for everywhere";
        reader.fault(item, "the list only takes out (\"-...\")", help);
        return None;
    }
    Some(list)
}

/// Country codes alone, neither zones nor negatives.
pub(super) fn countries(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<Country>> {
    let help = "write a list of country codes: [\"FR\", \"US\"]";
    let names = Names { index: BTreeMap::new() };
    reader.parsed_list(item, help, |text| match names.term(text) {
        Ok(Term::Country(country)) => Ok(country),
        Ok(Term::Everywhere | Term::Zone(_)) => {
            Err(Wrong::new(format!("{text:?} is not a country"), help))
        }
        Err(_) if is_built_in(&text.to_ascii_lowercase()) => {
            Err(Wrong::new(format!("{text:?} is a zone; here, each country is named"), help))
        }
        Err(wrong) => Err(wrong),
    })
}

/// The zones of a file: the built-in ones, then those of `[zones]` in the order of the text. Every
/// own zone has its place even where it is faulty, so that no list is blamed for another's fault.
pub(super) fn read(reader: &mut Reader<'_>, table: Option<&Table<'_>>) -> (Zones, Names) {
    let mut all = built_in();
    let first_own = all.len();
    let mut own = Vec::new();
    for (name, span, item) in table.map(Table::in_order).unwrap_or_default() {
        if own.len() == OWN_ZONES_MAX {
            let wrong = Wrong::new(
                format!("more than {OWN_ZONES_MAX} zones"),
                "join some of them: a zone may name many countries",
            );
            reader.fault_at(span.start, &item.key, wrong);
            break;
        }
        match own_name(name) {
            Ok(()) => {
                all.push(Zone {
                    name: name.to_owned(),
                    members: Members::List(ZoneList::default()),
                });
                own.push((span, item));
            }
            Err(wrong) => reader.fault_at(span.start, &item.key, wrong),
        }
    }
    let names = Names::new(&all);
    let lists: Vec<_> =
        own.iter().map(|(_, item)| zone_list(reader, item, &names).unwrap_or_default()).collect();
    for (zone, list) in all.iter_mut().skip(first_own).zip(lists) {
        zone.members = Members::List(list);
    }
    let zones = Zones { all };
    let mut walk = Walk { zones: &zones, done: BTreeSet::new(), path: Vec::new(), cycles: vec![] };
    (first_own..zones.all.len()).for_each(|index| walk.visit(index));
    for cycle in walk.cycles {
        let start = cycle.first().and_then(|index| own.get(index - first_own));
        let called = |index: &usize| zones.all.get(*index).map_or("", |zone| zone.name.as_str());
        let path: Vec<_> = cycle.iter().chain(cycle.first()).map(called).collect();
        if let Some((span, item)) = start {
            let what = format!("the zone holds itself: {}", path.join(" > "));
            reader.fault_at(span.start, &item.key, Wrong::new(what, "take one of them out"));
        }
    }
    (zones, names)
}

fn own_name(name: &str) -> Result<(), Wrong> {
    let help = "name it in lower-case letters, digits and \"-\", a letter first";
    if is_built_in(name) || BUILT_IN.hollow.contains(name) {
        return Err(Wrong::new("a built-in zone has this name", "give yours another"));
    }
    if country(name).is_some() {
        return Err(Wrong::new("the name is a country's code", "give the zone a longer name"));
    }
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let starts_well = name.starts_with(|first: char| first.is_ascii_lowercase());
    if starts_well && name.len() <= 64 && name.bytes().all(letters) {
        return Ok(());
    }
    Err(Wrong::new("no name for a zone", help))
}

/// A depth-first walk over the zones; [`OWN_ZONES_MAX`] bounds its depth.
struct Walk<'z> {
    zones: &'z Zones,
    done: BTreeSet<usize>,
    path: Vec<usize>,
    cycles: Vec<Vec<usize>>,
}

impl Walk<'_> {
    fn visit(&mut self, index: usize) {
        if let Some(start) = self.path.iter().position(|&on_path| on_path == index) {
            self.cycles.push(self.path.iter().skip(start).copied().collect());
            return;
        }
        if self.done.contains(&index) {
            return;
        }
        if let Some(Zone { members: Members::List(list), .. }) = self.zones.all.get(index) {
            self.path.push(index);
            zones_of(list).into_iter().for_each(|next| self.visit(next));
            self.path.pop();
        }
        self.done.insert(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(zones: &Zones, text: &str) -> ZoneList {
        let names = Names::new(&zones.all);
        let (minus, plus): (Vec<_>, Vec<_>) = text.split(' ').partition(|t| t.starts_with('-'));
        let term = |t: &str| names.term(t.trim_start_matches('-')).unwrap();
        ZoneList {
            plus: plus.into_iter().map(term).collect(),
            minus: minus.into_iter().map(term).collect(),
        }
    }

    fn held(text: &str, at: &str) -> CountrySet {
        let zones = Zones { all: built_in() };
        zones.resolve(&list(&zones, text), at.parse().unwrap())
    }

    const NOW: &str = "2026-11-24T12:00:00Z";

    #[test]
    fn the_built_in_zones_hold_what_the_treaties_say() {
        assert_eq!(held("eu", NOW).len(), 34);
        assert_eq!(held("eea", NOW).len(), 37);
        assert_eq!(held("gdpr-adequacy-partial", NOW).to_string(), "CA, JP, KR, US");
        assert_eq!(held("uk-adequacy-partial", NOW).to_string(), "CA, JP, US");
        assert!(!held("uk-adequacy", NOW).meets(held("uk-adequacy-partial", NOW)));
        assert!(!held("gdpr-adequacy", NOW).meets(held("gdpr-adequacy-partial", NOW)));
        assert_eq!(held("fr-realm", NOW).len(), 13);
    }

    #[test]
    fn a_member_counts_from_its_day_to_the_end_of_its_last() {
        let brazil = held("BR", NOW);
        assert!(!brazil.is_subset(held("gdpr-adequacy", "2026-01-25T23:59:59.999Z")));
        assert!(brazil.is_subset(held("gdpr-adequacy", "2026-01-26T00:00:00Z")));
        let britain = held("GB", NOW);
        assert!(britain.is_subset(held("gdpr-adequacy", "2031-12-27T23:59:59.999Z")));
        assert!(!britain.meets(held("gdpr-adequacy", "2031-12-28T00:00:00Z")));
    }

    #[test]
    fn who_left_is_a_member_until_the_last_day() {
        let holds = |zone: &str, code: &str, at: &str| held(code, NOW).is_subset(held(zone, at));
        for (zone, code, last, first_without) in [
            ("eu", "GB", "2020-01-31T23:59:59Z", "2020-02-01T00:00:00Z"),
            ("eea", "GB", "2020-01-31T23:59:59Z", "2020-02-01T00:00:00Z"),
            ("eu", "GL", "1985-01-31T12:00:00Z", "1985-02-01T00:00:00Z"),
            ("eu", "BL", "2011-12-31T12:00:00Z", "2012-01-01T00:00:00Z"),
            ("coe", "RU", "2022-03-16T12:00:00Z", "2022-03-17T00:00:00Z"),
            ("coe", "GR", "1970-12-31T12:00:00Z", "1971-01-01T00:00:00Z"),
            ("efta", "SE", "1994-12-31T12:00:00Z", "1995-01-01T00:00:00Z"),
            ("cis", "GE", "2009-08-17T12:00:00Z", "2009-08-18T00:00:00Z"),
            ("gdpr-adequacy-partial", "US", "2015-10-06T12:00:00Z", "2015-10-07T00:00:00Z"),
            ("gdpr-adequacy-partial", "US", "2020-07-16T12:00:00Z", "2020-07-17T00:00:00Z"),
        ] {
            assert!(holds(zone, code, last), "{code} is in {zone} at {last}");
            assert!(
                !holds(zone, code, first_without),
                "{code} is not in {zone} at {first_without}"
            );
        }
        assert_eq!(held("eu", "2019-06-01T00:00:00Z").len(), 36);
        assert!(holds("coe", "GR", NOW) && holds("gdpr-adequacy-partial", "US", NOW));
    }

    #[test]
    fn aliases_hold_what_they_stand_for() {
        for &(name, members, _) in &ALIASES {
            assert_eq!(held(name, NOW), held(&members.join(" "), NOW), "{name}");
        }
        assert_eq!(held("hds", NOW).len(), 37);
        assert_eq!(held("eu-data-boundary", NOW).len(), 38);
        assert!(!held("gdpr-free-flow", NOW).meets(held("gdpr-adequacy-partial", NOW)));
        let zones = Zones { all: built_in() };
        let told: Vec<_> = zones.aliases(&list(&zones, "hds FR -gdpr-free-flow")).collect();
        let told: Vec<_> = told.iter().map(|(name, what, _)| (*name, what.as_str())).collect();
        assert_eq!(told, [("hds", "eea"), ("gdpr-free-flow", "eea, gdpr-adequacy")]);
    }

    #[test]
    fn the_source_of_a_membership_is_that_of_its_time() {
        let zones = Zones { all: built_in() };
        let eu = list(&zones, "gdpr-free-flow");
        let britain = Country::from_code("GB").unwrap();
        let at = |text: &str| Some(text.parse().unwrap());
        let old =
            zones.sources(&eu, britain, at("1994-01-01T00:00:00Z"), at("2020-02-01T00:00:00Z"));
        assert!(old.len() == 1 && old[0].contains("OJ L 29, 31.1.2020"), "{old:?}");
        let new = zones.sources(&eu, britain, at("2021-06-28T00:00:00Z"), None);
        assert!(new.len() == 1 && new[0].contains("2021/1772"), "{new:?}");
    }

    #[test]
    fn a_negative_takes_out_wherever_it_stands() {
        assert_eq!(held("-GB GB FR", NOW).to_string(), "FR");
        assert_eq!(held("* -eea", NOW).len(), Country::COUNT - 37);
        assert_eq!(held("US -US", NOW), CountrySet::EMPTY);
    }

    #[test]
    fn boundaries_are_the_instants_at_which_the_countries_change() {
        let zones = Zones { all: built_in() };
        let at = |text: &str| -> Vec<String> {
            zones.boundaries(&list(&zones, text)).map(|at| at.to_string()).collect()
        };
        assert!(at("gdpr-adequacy").contains(&"2031-12-28T00:00:00Z".to_owned()));
        assert!(at("gdpr-adequacy").contains(&"2026-01-26T00:00:00Z".to_owned()));
        // Everything that comes and goes is taken out, so nothing changes.
        assert!(at("FR -gdpr-adequacy").is_empty());
        assert!(at("* FR").is_empty());
    }

    #[test]
    fn sets_without_any_country_are_no_zones() {
        assert!(!built_in().iter().any(|zone| zone.name == "eu-sanctioned-regions"));
        for zone in built_in() {
            if let Members::Dated(members) = zone.members {
                assert!(!members.is_empty(), "{}", zone.name);
            }
        }
    }

    #[test]
    fn partial_adequacy_is_found_through_other_zones_and_not_where_it_was_taken_out() {
        let mut zones = Zones { all: built_in() };
        let inner = list(&zones, "eea gdpr-adequacy-partial");
        zones.all.push(Zone { name: "own".into(), members: Members::List(inner) });
        let now = NOW.parse().unwrap();
        let (name, countries) = zones.partial_adequacy(&list(&zones, "own -US"), now).unwrap();
        assert_eq!((name, countries.to_string().as_str()), ("gdpr-adequacy-partial", "CA, JP, KR"));
        assert_eq!(zones.partial_adequacy(&list(&zones, "own -CA -JP -KR -US"), now), None);
        assert_eq!(zones.partial_adequacy(&list(&zones, "gdpr-adequacy US"), now), None);
    }
}
