//! Who asks: the group of a client, and the rules whose `from` holds for it.

use std::net::IpAddr;

use super::Mode;
use super::address::canonical;
use super::ip_table::IpTable;
use super::rule_set::SetId;

/// Client address -> class of clients -> group.
#[derive(Debug)]
pub(super) struct ClientIndex {
    pub(super) table: IpTable,
    /// For each value of `table`; the first is a client that nothing names.
    pub(super) classes: Box<[ClientClass]>,
    pub(super) groups: Box<[GroupState]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClientClass {
    pub(super) group: u32,
    /// Rules whose `from` holds.
    pub(super) from: SetId,
}

#[derive(Debug)]
pub(super) struct GroupState {
    pub(super) name: String,
    pub(super) mode: Mode,
    pub(super) profile: u32,
}

impl ClientIndex {
    /// The class of a client, as an index; 0 where nobody says who it is.
    #[inline(always)]
    pub(super) fn position(&self, client: Option<IpAddr>) -> u32 {
        client.map_or(0, |client| self.table.value(canonical(client)))
    }

    /// The class of a client.
    #[inline(always)]
    pub(super) fn class(&self, client: Option<IpAddr>) -> Option<ClientClass> {
        self.classes.get(self.position(client) as usize).copied()
    }

    /// The group of a class of clients.
    #[inline]
    pub(super) fn group(&self, client: ClientClass) -> &GroupState {
        static NOBODY: GroupState =
            GroupState { name: String::new(), mode: Mode::Enforce, profile: 0 };
        self.groups.get(client.group as usize).unwrap_or(&NOBODY)
    }
}
