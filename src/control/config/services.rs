//! `service` of a rule: services by name, which become the hosts and prefixes of the one matcher.

use std::path::Path;

use super::error::Wrong;
use super::model::{Rule, Update};
use super::reader::{Item, Reader, Table};
use crate::control::data::{Data, DataFault, Endpoints, Services};
use crate::policy::{Action, HostListBuilder};

const HELP: &str = "write a list of services: [\"microsoft-365/exchange\"]";

/// The services that `[data] services` names; a file that cannot be read is a fault of that key. While
/// tables are fetched, one that an update is to bring may still be missing.
pub(super) fn load(
    reader: &mut Reader<'_>,
    root: &Table<'_>,
    data: Option<&Data>,
    update: Option<&Update>,
) -> Services {
    let Some(data) = data else { return Services::embedded().clone() };
    let (services, faults) = Services::load(data);
    let table = root.item("data").map(|item| item.span.start).unwrap_or_default();
    let at = |entry: &Table<'_>| entry.item("services").map(|item| item.span.start);
    let at = reader.table(root, "data").as_ref().and_then(at).unwrap_or(table);
    let brought = |source: &str| {
        let mut sources = update.iter().flat_map(|update| &update.sources);
        sources.any(|it| it.file.as_path() == Path::new(source))
    };
    for fault in faults {
        let (said, DataFault { source, row, .. }) = (fault.said(), fault);
        if reader.fetching && brought(&source) {
            continue;
        }
        let row = row.map_or_else(String::new, |row| format!("row {row}: "));
        let help = "mend the file, or take it out of data.services";
        let wrong = Wrong::new(format!("{source}: {row}{said}"), help);
        reader.fault_at(at, "data.services", wrong);
    }
    services
}

/// Reads `service`: the names with what says so, and what they stand for.
pub(super) fn condition(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    services: &Services,
    action: Option<Action>,
) -> Option<(Vec<String>, Endpoints)> {
    let members = reader.list(item, HELP)?;
    let fetching = reader.fetching;
    let named = reader.each(&members, |reader, member| {
        let name = reader.string(member, HELP)?;
        match services.named(name) {
            Ok(found) => Some((name.to_owned(), found)),
            // It may be in a file that is yet to come; such a rule is left out.
            Err(_) if fetching => Some((name.to_owned(), Endpoints::default())),
            Err(near) => {
                let near = near.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>();
                let help = format!("those that are near: {}", near.join(", "));
                reader.fault(member, format!("nobody knows the service {name:?}"), help);
                None
            }
        }
    })?;
    let (mut names, mut all) = (Vec::new(), Endpoints::default());
    for (name, found) in named {
        names.push(format!("{name} (by {})", found.sources.join(", ")));
        all.hosts.extend(found.hosts);
        all.blocked_hosts.extend(found.blocked_hosts);
        all.nets.extend(found.nets);
        all.blocked_nets.extend(found.blocked_nets);
    }
    let opens = action.is_some_and(|action| action != Action::Block);
    if opens && !fetching && all.hosts.is_empty() && all.nets.is_empty() {
        let what = "of these services nothing is published that an allow rule could open";
        reader.fault(item, what, "name the hosts that are meant: host = [\"...\"]");
        return None;
    }
    Some((names, all))
}

/// A rule with what its services stand for: one rule by hosts, and one by prefixes where some are
/// published without a host. A block rule takes every address and wider pattern as well.
pub(super) fn expand(rule: Rule, endpoints: Option<Endpoints>) -> Vec<Rule> {
    let Some(endpoints) = endpoints else { return vec![rule] };
    let Endpoints { mut hosts, mut nets, blocked_hosts, blocked_nets, .. } = endpoints;
    if rule.action == Action::Block {
        hosts.extend(blocked_hosts);
        nets.extend(blocked_nets);
    }
    nets.sort_unstable();
    nets.dedup();
    let mut list = HostListBuilder::default();
    hosts.iter().for_each(|host| list.push(&host.name, host.below));
    let by_host = (!list.is_empty()).then(|| Rule { host: Some(list.finish()), ..rule.clone() });
    let by_net = (!nets.is_empty()).then_some(Rule { to: Some(nets), ..rule });
    by_host.into_iter().chain(by_net).collect()
}
