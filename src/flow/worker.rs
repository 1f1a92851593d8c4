//! Holds what the connections of one worker share. Each worker is a thread of its own.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;

use super::registry::Registry;
use super::udp::ports::Ports;
use super::udp::table::Table;
use crate::account::Account;
use crate::egress::name_binding::BindingCache;
use crate::policy::Live;

/// What a worker's connections share.
pub(super) struct Worker {
    pub(super) live: Arc<Live>,
    pub(super) account: Account,
    pub(super) names: BindingCache,
    pub(super) registry: Rc<Registry>,
    /// The UDP flows of the worker's SOCKS5 clients.
    pub(super) associated: Rc<Table>,
    /// The outer ports of UDP clients, over all workers.
    pub(super) ports: Arc<Ports>,
    /// True from the moment at which no new requests are wanted.
    pub(super) stopping: watch::Sender<bool>,
}
