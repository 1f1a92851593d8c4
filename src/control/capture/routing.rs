//! The routing rules: the second fence, and the way to a transparent listener.
//!
//! ```text
//! 0:      from all lookup local             the kernel's own: what is for this host arrives
//! 0:      from all fwmark 0x5347 goto 21319 what the capture hands to a listener
//! 0:      from all fwmark 0x5348 goto 1     what the short cut permits (only where there is one)
//! 0:      not from all iif lo prohibit      all else that would be forwarded; what this host
//!                                           sends itself comes from lo
//! 1:      from all nop                      (only where there is a short cut)
//! 21319:  from all fwmark 0x5347 lookup 21319
//! ```
//! `nft flush ruleset` takes the guard and the capture in one stroke, and these stay. They are of
//! preference 0: a rule that is added without a preference goes behind them, and `ip rule flush`
//! leaves them (it deletes what shows a preference, and 0 is not shown). They are marked as the
//! kernel's own, which systemd-networkd leaves alone.

use std::io;

use super::family::Family;
use super::fault::CaptureFault;
use super::matches::{MARK, ROUTE_TABLE};
use super::shortcut;
use crate::sys::{self, Act, RoutingRule};

/// Preference of the fence.
const FENCE: u32 = 0;
/// Preference at which what the short cut permits goes on.
const BEHIND: u32 = 1;
/// The routing table of this host's own addresses (`RT_TABLE_LOCAL`).
const LOCAL: u32 = 255;

/// The fence, in order. The last rule is the one that holds.
fn fence(shortcut: bool) -> Vec<RoutingRule> {
    let marked =
        |mark, to| RoutingRule { mark: Some(mark), ..RoutingRule::new(FENCE, Act::Goto(to)) };
    let mut rules = vec![marked(MARK, ROUTE_TABLE)];
    if shortcut {
        rules.push(marked(shortcut::MARK, BEHIND));
    }
    rules.push(RoutingRule {
        incoming: Some("lo".to_owned()),
        inverted: true,
        ..RoutingRule::new(FENCE, Act::Prohibit)
    });
    rules
}

/// What brings marked packets to the table that delivers them here.
fn way() -> RoutingRule {
    RoutingRule { mark: Some(MARK), ..RoutingRule::new(ROUTE_TABLE, Act::Lookup(ROUTE_TABLE)) }
}

/// The rules as `ip` takes them, for a person to read.
pub(super) fn shown(family: Family, routed: bool, shortcut: bool) -> Vec<String> {
    let digit = family.digit();
    let rule = |rule: RoutingRule| {
        let text = rule.to_string();
        let (preference, what) = text.split_once(": ").unwrap_or_default();
        // `ip` takes `not` alone where it shows `not from all`.
        let what = what.replacen("not from all ", "not ", 1);
        format!("ip -{digit} rule add priority {preference} {what} protocol kernel")
    };
    let mut lines: Vec<_> = fence(shortcut).into_iter().map(rule).collect();
    if shortcut {
        lines.push(rule(RoutingRule::new(BEHIND, Act::Nop)));
    }
    if routed {
        lines.push(rule(way()));
        let route = format!("local default dev lo table {ROUTE_TABLE}");
        lines.push(format!("ip -{digit} route replace {route} protocol kernel"));
    }
    lines
}

/// Sets the fence of a family. What stands of it stands until all of it does.
pub(super) fn set_fence(family: Family, shortcut: bool) -> Result<(), CaptureFault> {
    let is_v6 = family == Family::V6;
    if shortcut {
        settle(is_v6, &[RoutingRule::new(BEHIND, Act::Nop)], &[]).map_err(fault)?;
    }
    settle(is_v6, &fence(shortcut), &fence(true)).map_err(fault)?;
    if !shortcut {
        settle(is_v6, &[], &[RoutingRule::new(BEHIND, Act::Nop)]).map_err(fault)?;
    }
    Ok(())
}

/// Takes the fence of a family back.
pub(super) fn remove_fence(family: Family) -> Result<(), CaptureFault> {
    let mut ours = fence(true);
    ours.push(RoutingRule::new(BEHIND, Act::Nop));
    settle(family == Family::V6, &[], &ours).map_err(fault)
}

/// How the fence of a family stands: what is wrong with it, or nothing.
pub(super) fn fence_fault(family: Family, shortcut: bool) -> io::Result<Option<String>> {
    let is_v6 = family == Family::V6;
    let digit = family.digit();
    let rules = sys::routing_rules(is_v6)?;
    let wanted = fence(shortcut);
    let holds = |rule: &RoutingRule| wanted.last().is_some_and(|last| rule.is_like(last));
    let Some(at) = rules.iter().position(holds) else {
        return Ok(Some(format!("IPv{digit}: no routing rule prohibits what is forwarded")));
    };
    let (before, _) = rules.split_at(at);
    let is_local = |rule: &RoutingRule| rule.is_like(&RoutingRule::new(0, Act::Lookup(LOCAL)));
    let foreign =
        |rule: &&RoutingRule| !is_local(rule) && !wanted.iter().any(|wanted| rule.is_like(wanted));
    if let Some(rule) = before.iter().find(foreign) {
        return Ok(Some(format!("IPv{digit}: a routing rule stands before the fence: {rule}")));
    }
    let stands = |wanted: &RoutingRule| before.iter().any(|rule| rule.is_like(wanted));
    let (_, leads) =
        wanted.split_last().map_or((None, &[][..]), |(last, leads)| (Some(last), leads));
    if let Some(missing) = leads.iter().find(|rule| !stands(rule)) {
        return Ok(Some(format!("IPv{digit}: no routing rule {missing}")));
    }
    let nop = RoutingRule::new(BEHIND, Act::Nop);
    if shortcut && !rules.iter().any(|rule| rule.is_like(&nop)) {
        return Ok(Some(format!("IPv{digit}: no routing rule {nop}")));
    }
    Ok(None)
}

/// Delivers marked packets of this family locally.
pub(super) fn enroute(family: Family) -> Result<(), CaptureFault> {
    let is_v6 = family == Family::V6;
    if let Some(found) = taken(is_v6).map_err(fault)? {
        return Err(CaptureFault::RuleTaken { found });
    }
    settle(is_v6, &[way()], &[]).map_err(fault)?;
    sys::deliver_locally(is_v6, ROUTE_TABLE).map_err(fault)
}

/// Removes the rule and the route of [`enroute`], where they are.
pub(super) fn unroute(family: Family) -> Result<(), CaptureFault> {
    let is_v6 = family == Family::V6;
    settle(is_v6, &[], &[way()]).map_err(fault)?;
    if sys::delivers_locally(is_v6, ROUTE_TABLE).map_err(fault)? {
        sys::deliver_no_longer(is_v6, ROUTE_TABLE).map_err(fault)?;
    }
    Ok(())
}

/// What is wrong with the way to the listeners, or nothing.
pub(super) fn way_fault(family: Family) -> io::Result<Option<String>> {
    let (is_v6, digit) = (family == Family::V6, family.digit());
    if !sys::routing_rules(is_v6)?.iter().any(|rule| rule.is_like(&way())) {
        return Ok(Some(format!("IPv{digit}: no routing rule {ROUTE_TABLE}")));
    }
    if !sys::delivers_locally(is_v6, ROUTE_TABLE)? {
        return Ok(Some(format!("IPv{digit}: no local route in table {ROUTE_TABLE}")));
    }
    Ok(None)
}

/// A rule of somebody else at the preference of ours.
fn taken(is_v6: bool) -> io::Result<Option<String>> {
    let rules = sys::routing_rules(is_v6)?;
    let mut there = rules.iter().filter(|rule| rule.preference == ROUTE_TABLE);
    Ok(there.find(|rule| !rule.is_like(&way())).map(ToString::to_string))
}

/// Makes the rules of `wanted` stand, in this order, and none of `others` beside them. Where they
/// do not, they are set anew behind those that stand, which are deleted afterwards: at no moment is
/// there less than before.
fn settle(is_v6: bool, wanted: &[RoutingRule], others: &[RoutingRule]) -> io::Result<()> {
    let is_ours = |rule: &RoutingRule| wanted.iter().chain(others).any(|own| rule.is_like(own));
    let mut installed = sys::routing_rules(is_v6)?;
    installed.retain(is_ours);
    if installed == wanted {
        return Ok(());
    }
    for rule in wanted {
        sys::add_routing_rule(is_v6, rule)?;
    }
    for rule in &installed {
        sys::delete_routing_rule(is_v6, rule)?;
    }
    Ok(())
}

fn fault(source: io::Error) -> CaptureFault {
    CaptureFault::Routing(source)
}
