//! From the policy file, and the sockets that were passed, to what the data plane is told.

use crate::broker::Feed;
use crate::control::config::{Config, Listen};
use crate::control::notify::Inherited;
use crate::control::trust_roots;
use crate::flow::{Listener, NameService};

pub(super) fn name_service(
    config: &Config,
    host: Option<Feed>,
) -> Result<NameService, trust_roots::Fault> {
    let names = &config.names;
    Ok(NameService {
        resolvers: names.resolvers.clone(),
        tls: trust_roots::of_resolvers(names)?,
        remember: names.remember,
        limit: names.limit,
        host,
    })
}

pub(super) fn listeners(config: &Config, inherited: &mut Inherited) -> Vec<Listener> {
    let mut listener = |listen: &Listen| Listener {
        settings: listen.clone(),
        socket: inherited.listener(listen.mode, listen.address),
        datagrams: listen.udp.and_then(|at| inherited.datagrams(listen.mode, at)),
    };
    config.listen.iter().map(&mut listener).collect()
}
