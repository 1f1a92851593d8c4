//! The processes inside: one that enters the namespaces, and process 1 in them, which makes the way out,
//! starts the command, and tells how it ended.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};

use super::message::{self, FromInside, ToInside};
use super::mounts::{self, Kept};
use super::{CLIENT, NOT_FOUND, NOT_RUNNABLE, NOT_STARTED, PASSED_ON, Plan, connects};
use crate::sys::{self, Channel, Diverted, Forked, Gone, HeldConnects, Signals, Woken};

/// The table of packet rules, and its counters.
const TABLE: &str = "schengate-exec";
const UDP: &str = "udp";
const OTHERS: &str = "others";

/// Ports on which sockets wait for whatever is sent there.
const NAMES: u16 = 53;
const QUIC: u16 = 443;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// A step that failed.
pub(super) struct Failed {
    pub(super) step: String,
    pub(super) fault: io::Error,
}

/// Names the step that an error is of.
pub(super) trait Step<T> {
    fn step(self, step: &str) -> Result<T, Failed>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, Failed> {
        self.map_err(|fault| Failed { step: step.to_owned(), fault: fault.into() })
    }
}

/// Everything that is passed out.
struct WayOut {
    tcp: TcpListener,
    names: (UdpSocket, TcpListener),
    quic: Option<UdpSocket>,
}

/// Runs the processes inside; ends with them.
pub(super) fn run(channel: Channel, plan: &Plan, signals: &Signals) -> ! {
    if let Err((step, fault)) = sys::unshare() {
        tell(&channel, &Failed { step: step.to_owned(), fault }, true);
        sys::leave(NOT_STARTED);
    }
    match sys::fork() {
        Ok(Forked::Child) => first(&channel, plan, signals),
        Ok(Forked::Parent(first)) => {
            // The end of the channel is to tell that process 1 is gone.
            drop(channel);
            drop(sys::wait(first));
            sys::leave(0)
        }
        Err(fault) => {
            tell(&channel, &Failed { step: "a process of its own".to_owned(), fault }, true);
            sys::leave(NOT_STARTED)
        }
    }
}

fn tell(channel: &Channel, failed: &Failed, is_first: bool) {
    let code = failed.fault.raw_os_error().unwrap_or(libc::EIO);
    let fault = FromInside::Fault { step: failed.step.clone(), code, is_first };
    // Where nobody hears it, the status says that it failed.
    drop(channel.send(&message::written(&fault), &[]));
}

/// Process 1.
fn first(channel: &Channel, plan: &Plan, signals: &Signals) -> ! {
    let ran = prepared(channel, plan).and_then(|kept| command(channel, plan, kept, signals));
    let status = match ran {
        Ok(()) => 0,
        Err(failed) => {
            tell(channel, &failed, false);
            NOT_STARTED
        }
    };
    // With process 1 everything in its namespace ends.
    sys::leave(status)
}

/// Makes the way out and passes it on; what is left of rights are those to read the counters and to answer
/// calls of connect(2).
fn prepared(channel: &Channel, plan: &Plan) -> Result<Kept, Failed> {
    // Sockets of the command are to be taken over, which is a way to look into it.
    if fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|it| it.trim() == "3") {
        let step = "kernel.yama.ptrace_scope = 3 lets nobody answer for the command's connections";
        return Err(Failed { step: step.to_owned(), fault: ErrorKind::PermissionDenied.into() });
    }
    let way = network(plan)?;
    let kept = mounts::hide(plan)?;
    sys::drop_capabilities(true).step("the capabilities")?;
    sys::hide_from_others().step("the process inside")?;
    let mut all: Vec<BorrowedFd<'_>> =
        vec![way.tcp.as_fd(), way.names.0.as_fd(), way.names.1.as_fd()];
    all.extend(way.quic.as_ref().map(AsFd::as_fd));
    let ready = FromInside::Ready { has_quic: way.quic.is_some() };
    channel.send(&message::written(&ready), &all).step("the way out")?;
    Ok(kept)
}

fn network(plan: &Plan) -> Result<WayOut, Failed> {
    sys::start_loopback().step("the loopback")?;
    // Which a kernel may lack, or have switched off: then there is no address of it to reach.
    let has_v6 = Socket::new(Domain::IPV6, Type::STREAM, None).is_ok();
    let own = [IpAddr::from(CLIENT.0), CLIENT.1.into()];
    for client in own {
        match sys::add_own_address(client).and_then(|()| sys::deliver_all_here(client)) {
            Ok(()) => {}
            Err(_) if client.is_ipv6() => {}
            Err(fault) => return Err(fault).step("the addresses"),
        }
    }
    let any: IpAddr =
        if has_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let stream = |port, is_transparent| listen(SocketAddr::new(any, port), is_transparent);
    let tcp = stream(0, true).step("the listener")?;
    let port = tcp.local_addr().step("the listener")?.port();
    let names = (
        datagrams(SocketAddr::new(any, NAMES)).step("the name server")?,
        stream(NAMES, false).step("the name server")?,
    );
    let quic = plan.quic.then(|| datagrams(SocketAddr::new(any, QUIC)));
    let quic = quic.transpose().step("the listener of QUIC")?;
    let waiting_udp: &[u16] = if quic.is_some() { &[NAMES, QUIC] } else { &[NAMES] };
    let diverted = Diverted {
        table: TABLE,
        own: &own,
        port,
        waiting_tcp: &[NAMES],
        waiting_udp,
        counted_udp: UDP,
        counted_others: OTHERS,
    };
    sys::divert(&diverted).step("the packet rules (nf_tables with TPROXY, nft_tproxy)")?;
    Ok(WayOut { tcp, names, quic })
}

/// A socket that takes both families where the address is of IPv6.
fn socket(at: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), kind, Some(protocol))?;
    if at.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

fn listen(at: SocketAddr, is_transparent: bool) -> io::Result<TcpListener> {
    let socket = socket(at, Type::STREAM, Protocol::TCP)?;
    if is_transparent {
        set_transparent(&socket, at)?;
    }
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One that answers from whichever address was sent to: IPv6 asks for the right to (`transparent`), though
/// every address is delivered here.
fn datagrams(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(at, Type::DGRAM, Protocol::UDP)?;
    set_transparent(&socket, at)?;
    socket.bind(&at.into())?;
    Ok(socket.into())
}

fn set_transparent(socket: &Socket, at: SocketAddr) -> io::Result<()> {
    match at {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true),
    }
}

/// Waits for the word, runs the command, and tells how it ended.
fn command(channel: &Channel, plan: &Plan, kept: Kept, signals: &Signals) -> Result<(), Failed> {
    let word = channel.receive().step("the word to start")?;
    let Some(word) = word else { return Ok(()) };
    let ToInside::Go { early } = message::read(&word.bytes).step("the word to start")? else {
        // A signal before the start: there is nothing to start any more.
        return Ok(());
    };
    // Those of this process itself: the copy of its parent's has those of its parent.
    let terminal = Signals::hold(&PASSED_ON).step("the signals")?;
    let own = Signals::hold(&[libc::SIGCHLD]).step("the signals")?;
    let (to_command, from_here) = Channel::pair().step("the command")?;
    let command = match sys::fork().step("the command")? {
        Forked::Child => {
            drop(to_command);
            become_command(plan, signals, &from_here)
        }
        Forked::Parent(command) => command,
    };
    drop(from_here);
    if let Some(held) = to_command.receive().step("the command")? {
        let held = held.descriptors.into_iter().next().ok_or(ErrorKind::InvalidData);
        let held = HeldConnects::from(held.step("the command's connections")?);
        let answer = move || connects::answer(&held, &kept);
        thread::Builder::new().spawn(answer).step("the command's connections")?;
        // It waits, and holds its signals: those of the terminal that came before it was there are one
        // with its own.
        let mut early: BTreeSet<_> = early.into_iter().collect();
        while let Some((signal, _)) = terminal.next().step("the signals")? {
            early.insert(signal);
        }
        for signal in early {
            sys::signal(command.unsigned_abs(), signal).step("the signals")?;
        }
        to_command.send(b"go", &[]).step("the command")?;
    }
    loop {
        match own.wait(channel, None).step("the command")? {
            Woken::Signal(..) => {
                let mut ended = None;
                while let Some((child, gone)) = sys::reap().step("the command")? {
                    if child == command {
                        ended = Some(gone);
                    }
                }
                if let Some(gone) = ended {
                    return channel.send(&message::written(&end(gone)), &[]).step("the end");
                }
            }
            Woken::Other => match channel.receive().step("the command")? {
                Some(packet) => {
                    if let Ok(ToInside::Signal(signal)) = message::read(&packet.bytes) {
                        // It may have ended, and is then reaped.
                        drop(sys::signal(command.unsigned_abs(), signal));
                    }
                }
                // Nobody is left outside: the end of this process is the end of all.
                None => return Ok(()),
            },
            Woken::Neither => {}
        }
    }
}

fn end(gone: Gone) -> FromInside {
    let counters = sys::counters(TABLE).unwrap_or_default();
    let count = |name: &str| {
        counters.iter().find(|counter| counter.name == name).map_or(0, |counter| counter.packets)
    };
    let (exited, number) = match gone {
        Gone::Exited(status) => (true, status),
        Gone::Killed(signal) => (false, signal),
    };
    FromInside::Ended { exited, number, udp: count(UDP), others: count(OTHERS) }
}

/// Gives up every right, and becomes the command once its connections are taken care of.
fn become_command(plan: &Plan, signals: &Signals, from_here: &Channel) -> ! {
    let given_up = sys::drop_capabilities(false)
        .and_then(|()| sys::leave_no_core())
        .and_then(|()| sys::hold_connects())
        .and_then(|held| from_here.send(b"held", &[held.as_fd()]))
        .and_then(|()| from_here.receive()?.ok_or_else(|| ErrorKind::BrokenPipe.into()))
        .and_then(|_go| sys::close_at_exec())
        .and_then(|()| signals.release())
        .and_then(|()| sys::forbid_ways_out());
    if let Err(fault) = given_up {
        eprintln!("schengate: exec: the rights of the command cannot be taken: {fault}");
        sys::leave(NOT_STARTED);
    }
    let Some((program, arguments)) = plan.command.split_first() else { sys::leave(NOT_FOUND) };
    let fault = Command::new(program).args(arguments).exec();
    let shown = program.to_string_lossy();
    let shown = shown.escape_debug();
    eprintln!("schengate: exec: {shown}: {fault}");
    sys::leave(if fault.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE })
}

/// Whether there is a file of this kind; what cannot be looked at is none.
pub(super) fn exists(path: &std::path::Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
