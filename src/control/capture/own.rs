//! Tries the capture of this host's own traffic as one of its programs would: a connection and a datagram
//! to an address that leads to an interface of our own. Either the gateway refuses them, or they come
//! out there, or nothing is heard of them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::family::Family;
use super::fault::CaptureFault;
use super::model::{Capture, Form};
use super::probe::{self, HTTPS, PATIENCE};
use super::state::Seen;
use crate::policy::probe::{FROM, TO};
use crate::sys::{self, Tun};

/// Who asks, and the interface at which what is not captured comes out.
#[derive(Debug)]
pub(super) struct Own {
    far: Tun,
    asks: Vec<Ask>,
}

/// From where to where, over one family.
#[derive(Debug, Clone, Copy)]
struct Ask {
    family: Family,
    from: IpAddr,
    to: IpAddr,
}

impl Own {
    /// Makes the interface; `None` where this process is of the user whose connections are left alone.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn start(capture: &Capture) -> Result<Option<Self>, CaptureFault> {
        if capture.form == (Form::Host { exempt_uid: sys::user() }) {
            return Ok(None);
        }
        let far = probe::open(probe::FAR)?;
        let mut asks = Vec::new();
        let captured = capture.tcp.iter().map(Option::is_some);
        for ((family, is_captured), (from, to)) in
            Family::ALL.into_iter().zip(captured).zip(FROM.into_iter().zip(TO))
        {
            if !is_captured || !family.exists() {
                continue;
            }
            let digit = family.digit();
            // The address is this host's, so that its programs may have it.
            let nodad = if family == Family::V6 { " nodad" } else { "" };
            let address = format!("-{digit} address replace {from} dev {}{nodad}", probe::FAR);
            let route = format!("-{digit} route replace {to} dev {} protocol kernel", probe::FAR);
            if [address, route].iter().all(|line| probe::ip(line).is_ok()) {
                asks.push(Ask { family, from, to });
            } else {
                tracing::info!(family = %digit, "no probes of this family: it is off here");
            }
        }
        Ok(Some(Self { far, asks }))
    }

    /// Asks everything once, and gives what became of it by way.
    pub(super) fn ask(&self) -> BTreeMap<String, Seen> {
        let mut found = BTreeMap::new();
        for &ask in &self.asks {
            // What came since the last time is not about this one.
            self.came_out(ask);
            for way in ["tcp", "udp"] {
                let seen = if way == "tcp" { connection(ask) } else { datagram(ask) };
                let seen = if self.came_out(ask) { Seen::Open } else { seen };
                found.insert(format!("{way}{}", ask.family.digit()), seen);
            }
        }
        found
    }

    /// Whether a packet of ours has come out.
    fn came_out(&self, ask: Ask) -> bool {
        let (mut buffer, mut came) = (vec![0; 2048], false);
        while let Ok(Some(length)) = self.far.receive(&mut buffer) {
            let packet = probe::parse(buffer.get(..length).unwrap_or_default());
            came |= packet.is_some_and(|packet| packet.is_sent(ask.from));
        }
        came
    }
}

/// A connection is held where it is accepted, and then ended without a byte.
fn connection(ask: Ask) -> Seen {
    let begun = Instant::now();
    let connected = || -> io::Result<TcpStream> {
        let socket = bound(ask, Type::STREAM)?;
        socket.connect_timeout(&SocketAddr::new(ask.to, HTTPS).into(), PATIENCE)?;
        Ok(socket.into())
    };
    let Ok(mut stream) = connected() else { return Seen::Lost };
    let left = PATIENCE.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
    if stream.set_read_timeout(Some(left)).is_err() {
        return Seen::Lost;
    }
    // It may be over by now.
    stream.write_all(b"?").ok();
    match stream.read(&mut [0; 16]) {
        Ok(0) => Seen::Held,
        Ok(_) => Seen::Lost,
        Err(e) if is_silence(&e) => Seen::Lost,
        Err(_) => Seen::Held,
    }
}

/// A datagram is held where somebody says that it is refused.
fn datagram(ask: Ask) -> Seen {
    let refused = || -> io::Result<bool> {
        let socket: UdpSocket = bound(ask, Type::DGRAM)?.into();
        socket.connect(SocketAddr::new(ask.to, HTTPS))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let told = socket.send(b"?").and_then(|_| socket.recv(&mut [0; 16]));
        Ok(told.is_err_and(|error| !is_silence(&error)))
    };
    if refused().unwrap_or(false) { Seen::Held } else { Seen::Lost }
}

fn bound(ask: Ask, kind: Type) -> io::Result<Socket> {
    let from = SocketAddr::new(ask.from, 0);
    let socket = Socket::new(Domain::for_address(from), kind, None)?;
    socket.bind(&from.into())?;
    Ok(socket)
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
