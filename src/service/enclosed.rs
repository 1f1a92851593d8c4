//! A gateway for one command that is shut in: its listeners come from inside, it has no admin pages, and
//! it ends with the command.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use super::start::StartFault;
use super::{record, settings};
use crate::account::{Account, View};
use crate::control::config::{Listen, ListenMode, dns_defaults};
use crate::control::load::LoadedPolicy;
use crate::control::reload::PolicyManager;
use crate::enclosure::{self, Sockets};
use crate::flow::{DataPlane, Listener, Settings};
use crate::settings::{ClientAddress, Dns};
use crate::sys;

/// Workers: a command is one client, whose UDP flows are one worker's anyway.
const WORKERS: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// Questions a second that the command may ask: it is all the clients that there are.
const QUESTIONS: u32 = 2000;

/// The command is the one client. It sends from whichever address it likes, and is judged by none of them.
const CLIENT: ClientAddress = ClientAddress::Fixed(enclosure::CLIENT.0, enclosure::CLIENT.1);

/// A gateway that serves one command.
#[derive(Debug)]
pub struct EnclosedGateway {
    policies: PolicyManager,
    plane: DataPlane,
    account: Account,
}

impl EnclosedGateway {
    /// Serves these sockets by this policy. Of what the policy says of listeners and of its name server
    /// only what has no address in it holds here.
    ///
    /// # Errors
    /// The first thing that it cannot do without.
    pub fn start(
        loaded: LoadedPolicy,
        sockets: Sockets,
        account: Account,
    ) -> Result<Self, StartFault> {
        if let Err(fault) = sys::raise_descriptor_limit() {
            warn!(%fault, "the limit of descriptors stays as it is");
        }
        let policies = PolicyManager::over(loaded, Timestamp::now());
        let config = policies.config();
        record::keep(config, &account, false)?;
        // Whoever reads the lines wants all of them.
        account.show(View::All);
        let names = sockets.names.0.local_addr()?;
        let dns = config.dns.clone().unwrap_or_else(|| dns_defaults(names));
        let settings = Settings {
            workers: WORKERS,
            affinity: false,
            names: settings::name_service(config, None)?,
            dns: Some(Dns { listen: names, rate: QUESTIONS, client: CLIENT, ..dns }),
            dns_sockets: Some(sockets.names),
            lane: None,
            // This process begins the command as well, and ends with it.
            confined: false,
            listeners: vec![Listener {
                settings: listen(config.listen.first(), &sockets.tcp, sockets.quic.as_ref())?,
                socket: Some(sockets.tcp),
                datagrams: sockets.quic,
            }],
        };
        let plane = DataPlane::start(settings, policies.live(), account.clone())?;
        record::started(&account, policies.current());
        Ok(Self { policies, plane, account })
    }

    /// What the clock asks for: the next state of the policy, where a date in it has come.
    pub fn tick(&mut self) {
        if self.policies.advance(Timestamp::now()) {
            info!("the policy has turned over to its next state");
            self.plane.rejudge();
        }
    }

    /// Ends: what is on its way has so long to arrive.
    pub fn end(self, limit: Duration) {
        self.plane.drain(limit);
        record::stopped(&self.account, self.policies.current());
    }
}

/// The one listener, with the time limits of the policy's first one.
fn listen(
    like: Option<&Listen>,
    tcp: &std::net::TcpListener,
    quic: Option<&std::net::UdpSocket>,
) -> io::Result<Listen> {
    let udp: Option<SocketAddr> = quic.map(std::net::UdpSocket::local_addr).transpose()?;
    Ok(Listen {
        mode: ListenMode::Tproxy,
        address: tcp.local_addr()?,
        udp,
        keep_source: false,
        max_connections_per_client: Some(0),
        client: CLIENT,
        ..like.cloned().unwrap_or(Listen::DEFAULT)
    })
}
