//! `schengate zones`: the zones that a policy may name, and who was in them when.

use std::collections::BTreeMap;
use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::common::{Exit, PolicyFile, complain};
use super::explain::instant;
use crate::control::config::{self, Members, Term, ZoneList, Zones};
use crate::policy::{Country, CountrySet};

/// Arguments of `zones`.
#[derive(Debug, clap::Args)]
pub(super) struct ZonesCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show every zone: name, whose it is, how many members, when that changes next
    List {
        #[command(flatten)]
        file: PolicyFile,
        /// The instant that counts, RFC 3339 or a day; without it now
        #[arg(long, value_name = "TIME", value_parser = instant)]
        at: Option<Timestamp>,
        /// One JSON array instead of text
        #[arg(long)]
        json: bool,
    },
    /// Show the members of a zone, since when and until when
    Show {
        /// The zone
        name: String,
        #[command(flatten)]
        file: PolicyFile,
        /// The instant that counts, RFC 3339 or a day; without it now
        #[arg(long, value_name = "TIME", value_parser = instant)]
        at: Option<Timestamp>,
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Show who joined and who left a zone between two dates
    Diff {
        /// The zone
        name: String,
        #[command(flatten)]
        file: PolicyFile,
        /// The earlier instant, RFC 3339 or a day
        #[arg(long, value_name = "DATE", value_parser = instant)]
        from: Timestamp,
        /// The later instant, RFC 3339 or a day
        #[arg(long, value_name = "DATE", value_parser = instant)]
        to: Timestamp,
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
}

/// Exit status: 0 answered (of `diff`: nothing changed), 1 the zone changed (of `diff`), 2 could not
/// answer: there is no such zone.
pub(super) fn zones(arguments: &ZonesCommand, out: &mut impl Write) -> io::Result<Exit> {
    let (Command::List { file, .. } | Command::Show { file, .. } | Command::Diff { file, .. }) =
        &arguments.command;
    let loaded = match config::load(file.noted()) {
        Ok(loaded) => loaded,
        Err(faults) => return Ok(complain(faults)),
    };
    let zones = &loaded.config.zones;
    let now = Timestamp::now();
    match &arguments.command {
        Command::List { at, json, .. } => list(zones, at.unwrap_or(now), *json, out),
        Command::Show { name, at, json, .. } => match find(zones, name) {
            Some(zone) => show(&zone, at.unwrap_or(now), *json, out),
            None => Ok(complain(absent(zones, name))),
        },
        Command::Diff { name, from, to, json, .. } => match find(zones, name) {
            Some(_) if from > to => Ok(complain("--from is later than --to: exchange the two")),
            Some(zone) => diff(&zone, *from, *to, *json, out),
            None => Ok(complain(absent(zones, name))),
        },
    }
}

fn absent(zones: &Zones, name: &str) -> String {
    match config::nearest(name, zones.all.iter().map(|zone| zone.name.as_str())) {
        Some(near) => format!("no zone is called {name:?}; did you mean {near:?}?"),
        None => format!("no zone is called {name:?}; `schengate zones list` names them"),
    }
}

/// One zone of a policy.
struct Zone<'a> {
    zones: &'a Zones,
    name: &'a str,
    /// The list of a zone of the file, or of a built-in name that stands for others.
    own: Option<&'a ZoneList>,
    itself: ZoneList,
}

impl<'a> Zone<'a> {
    fn new(zones: &'a Zones, index: usize) -> Option<Self> {
        let zone = zones.all.get(index)?;
        let own = match &zone.members {
            Members::Dated(_) => None,
            Members::List(list) => Some(list),
        };
        let itself = ZoneList { plus: vec![Term::Zone(index)], minus: Vec::new() };
        Some(Self { zones, name: &zone.name, own, itself })
    }

    fn origin(&self) -> &'static str {
        if config::is_built_in(self.name) { "built-in" } else { "policy" }
    }

    fn at(&self, at: Timestamp) -> CountrySet {
        self.zones.resolve(&self.itself, at)
    }

    fn next_change(&self, after: Timestamp) -> Option<Timestamp> {
        self.zones.boundaries(&self.itself).find(|&instant| instant > after)
    }

    /// Every membership that ever is, by country and start.
    fn memberships(&self) -> Vec<Membership> {
        let mut open: BTreeMap<Country, Option<Timestamp>> =
            self.at(Timestamp::MIN).iter().map(|country| (country, None)).collect();
        let mut all = Vec::new();
        for instant in self.zones.boundaries(&self.itself) {
            let held = self.at(instant);
            let left = open.iter().filter(|(country, _)| !held.contains(**country));
            all.extend(left.map(|(&country, &since)| Membership {
                country,
                since,
                until: Some(instant),
            }));
            open.retain(|country, _| held.contains(*country));
            for country in held.iter() {
                open.entry(country).or_insert(Some(instant));
            }
        }
        all.extend(open.into_iter().map(|(country, since)| Membership {
            country,
            since,
            until: None,
        }));
        all.sort_by_key(|membership| (membership.country, membership.since));
        all
    }

    /// What says so of a membership; nothing where the policy itself names the country.
    fn sources(&self, member: &Membership) -> Vec<&str> {
        self.zones.sources(&self.itself, member.country, member.since, member.until)
    }

    /// What stands in the file, as it is written there.
    fn written(&self) -> Option<Vec<String>> {
        let list = self.own?;
        let name = |term: &Term| match term {
            Term::Everywhere => "*".to_owned(),
            Term::Country(country) => country.code().to_owned(),
            Term::Zone(index) => {
                self.zones.all.get(*index).map(|zone| zone.name.clone()).unwrap_or_default()
            }
        };
        let minus = list.minus.iter().map(|term| format!("-{}", name(term)));
        Some(list.plus.iter().map(name).chain(minus).collect())
    }
}

/// A country's time in a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Membership {
    country: Country,
    /// `None`: always.
    since: Option<Timestamp>,
    /// First instant after it; `None`: open.
    until: Option<Timestamp>,
}

impl Membership {
    fn holds(&self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| since <= at) && self.until.is_none_or(|until| at < until)
    }

    fn json(&self, at: Timestamp, sources: &[&str]) -> Value {
        json!({
            "sources": sources,
            "country": self.country.code(),
            "since": self.since.map(|since| since.to_string()),
            "until": self.until.map(|until| until.to_string()),
            "holds": self.holds(at),
        })
    }
}

fn find<'a>(zones: &'a Zones, name: &str) -> Option<Zone<'a>> {
    let index = zones.all.iter().position(|zone| zone.name == name)?;
    Zone::new(zones, index)
}

fn codes(set: CountrySet) -> Vec<&'static str> {
    set.iter().map(Country::code).collect()
}

fn list(zones: &Zones, at: Timestamp, as_json: bool, out: &mut impl Write) -> io::Result<Exit> {
    let all: Vec<_> = (0..zones.all.len()).filter_map(|index| Zone::new(zones, index)).collect();
    if as_json {
        let values: Vec<_> = all
            .iter()
            .map(|zone| {
                json!({
                    "name": zone.name,
                    "origin": zone.origin(),
                    "members": zone.at(at).len(),
                    "next_change": zone.next_change(at).map(|at| at.to_string()),
                })
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&values)?)?;
        return Ok(Exit::Yes);
    }
    for zone in &all {
        let next = zone.next_change(at).map_or_else(String::new, |at| format!("  changes {at}"));
        let (name, origin, members) = (zone.name, zone.origin(), zone.at(at).len());
        writeln!(out, "{name:<32} {origin:<8} {members:>4} members{next}")?;
    }
    Ok(Exit::Yes)
}

fn show(zone: &Zone<'_>, at: Timestamp, as_json: bool, out: &mut impl Write) -> io::Result<Exit> {
    let memberships = zone.memberships();
    if as_json {
        let answer = json!({
            "name": zone.name,
            "origin": zone.origin(),
            "written": zone.written(),
            "at": at.to_string(),
            "codes": codes(zone.at(at)),
            "members": memberships
                .iter()
                .map(|member| member.json(at, &zone.sources(member)))
                .collect::<Vec<_>>(),
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?;
        return Ok(Exit::Yes);
    }
    writeln!(out, "{} ({}), {} members at {at}", zone.name, zone.origin(), zone.at(at).len())?;
    if let Some(written) = zone.written() {
        let verb = if zone.origin() == "policy" { "written as" } else { "stands for" };
        writeln!(out, "{verb} {}", written.join(", "))?;
    }
    let day = |instant: Option<Timestamp>| {
        instant.map_or_else(|| "-".to_owned(), |instant| instant.to_string())
    };
    for member in &memberships {
        let (since, until) = (day(member.since), day(member.until));
        let holds = if member.holds(at) { "" } else { "  (not at that time)" };
        let sources = zone.sources(member).join("; ");
        let by = if sources.is_empty() { "the policy".to_owned() } else { sources };
        writeln!(
            out,
            "  {}  since {since:<20}  until {until:<20}{holds}  by {by}",
            member.country
        )?;
    }
    Ok(Exit::Yes)
}

fn diff(
    zone: &Zone<'_>,
    from: Timestamp,
    to: Timestamp,
    as_json: bool,
    out: &mut impl Write,
) -> io::Result<Exit> {
    let (before, after) = (zone.at(from), zone.at(to));
    let (joined, left) = (after & !before, before & !after);
    let memberships = zone.memberships();
    // The last time each did, for one that came and went several times in between.
    let when = |country: Country, edge: fn(&Membership) -> Option<Timestamp>| {
        let of_country = memberships.iter().filter(|member| member.country == country);
        of_country.filter_map(edge).filter(|&at| from < at && at <= to).max()
    };
    let changes = |set: CountrySet, edge: fn(&Membership) -> Option<Timestamp>| {
        set.iter().map(|country| (country, when(country, edge))).collect::<Vec<_>>()
    };
    let joined = changes(joined, |member| member.since);
    let left = changes(left, |member| member.until);
    let same = joined.is_empty() && left.is_empty();
    if as_json {
        let values = |changes: &[(Country, Option<Timestamp>)]| {
            let value = |&(country, at): &(Country, Option<Timestamp>)| json!({ "country": Country::code(country), "at": at.map(|at| at.to_string()) });
            changes.iter().map(value).collect::<Vec<_>>()
        };
        let answer = json!({
            "name": zone.name,
            "from": from.to_string(),
            "to": to.to_string(),
            "joined": values(&joined),
            "left": values(&left),
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?;
    } else {
        let unchanged = if same { ": unchanged" } else { "" };
        writeln!(out, "{} from {from} to {to}{unchanged}", zone.name)?;
        for (sign, changes) in [('+', &joined), ('-', &left)] {
            for (country, at) in changes {
                let at = at.map_or_else(String::new, |at| format!("  {at}"));
                writeln!(out, "  {sign} {country}{at}")?;
            }
        }
    }
    Ok(if same { Exit::Yes } else { Exit::No })
}
