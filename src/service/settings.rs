//! From the policy file, and the sockets that were passed, to what the data plane is told.

use crate::account::Way;
use crate::control::anchors;
use crate::control::config::{Config, Listen, ListenMode};
use crate::control::notify::Inherited;
use crate::flow::{Datagrams, Listener, NameService, Socket};

pub(super) fn name_service(config: &Config) -> Result<NameService, anchors::Fault> {
    let names = &config.names;
    let tls = if names.resolvers.iter().any(|resolver| resolver.tls.is_some()) {
        Some(anchors::client(names.resolver_ca.as_deref())?)
    } else {
        None
    };
    let resolvers = names.resolvers.clone();
    Ok(NameService { resolvers, tls, remember: names.remember, limit: names.limit })
}

pub(super) fn listeners(config: &Config, inherited: &mut Inherited) -> Vec<Listener> {
    let mut listener = |listen: &Listen| Listener {
        way: match listen.mode {
            ListenMode::Tproxy => Way::Tproxy,
            ListenMode::Redirect => Way::Redirect,
            ListenMode::Proxy => Way::Proxy,
        },
        socket: inherited
            .listener(listen.mode, listen.address)
            .map_or(Socket::Address(listen.address), Socket::Inherited),
        peek_timeout: listen.peek_timeout,
        connect_timeout: listen.connect_timeout,
        idle_timeout: listen.idle_timeout,
        half_closed_timeout: listen.half_closed_timeout,
        lifetime: listen.lifetime,
        keepalive: listen.keepalive,
        user_timeout: listen.user_timeout,
        keep_source: listen.keep_source,
        max_connections: listen.max_connections,
        max_connections_per_client: listen.max_connections_per_client,
        silent: listen.silent,
        starttls: listen.starttls,
        udp: listen.udp.map(|at| {
            inherited
                .datagrams(listen.mode, at)
                .map_or(Datagrams::Address(at), Datagrams::Inherited)
        }),
    };
    config.listen.iter().map(&mut listener).collect()
}
