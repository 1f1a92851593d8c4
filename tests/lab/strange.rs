//! Clients that speak TCP and IP as few programs do: data in the SYN, raw packets of any protocol,
//! storms, connections that are kept.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::role::{connect, hex, io_end, patience, unhex};

/// `sendto` with data to a socket that is not connected (tcp(7), TCP Fast Open).
const MSG_FASTOPEN: i32 = 0x2000_0000;

/// What a question asks for; `None` where it is none of these.
pub(crate) fn ask(kept: &mut Vec<TcpStream>, to: SocketAddr, question: &Value) -> Option<Value> {
    let said = match question["do"].as_str()? {
        "fast-open" => fast_open(to, question),
        "raw" => raw(to, question),
        "again" => again(to, question),
        "storm" => Ok(storm(to, question)),
        "keep" => keep(kept, to, question),
        "say-on" => say_on(kept, question),
        "converse" => converse(to, question),
        "keep-narrow" => keep_narrow(kept, to, question),
        "upload" => upload(to, question),
        "let-go" => {
            for stream in kept.drain(..).filter(|_| question["reset"] == true) {
                drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
            }
            Ok(json!("gone"))
        }
        _ => return None,
    };
    Some(said.unwrap_or_else(|e| json!({"end": io_end(&e), "received": ""})))
}

fn bytes(question: &Value) -> Vec<u8> {
    unhex(question["hex"].as_str().unwrap_or_default())
}

/// What comes back, up to `enough` bytes or the end.
fn hear(mut stream: TcpStream, question: &Value) -> io::Result<Value> {
    stream.set_read_timeout(Some(patience(question)))?;
    let enough = question["enough"].as_u64().unwrap_or(u64::MAX);
    let mut block = [0; 4096];
    let mut received = Vec::new();
    let end = loop {
        match stream.read(&mut block) {
            Ok(0) => break "end of stream".to_owned(),
            Ok(read) => received.extend(&block[..read]),
            Err(e) => break io_end(&e),
        }
        if received.len() as u64 >= enough {
            break "enough".to_owned();
        }
    };
    Ok(json!({"end": end, "received": hex(&received)}))
}

/// The bytes in the SYN, as far as they fit and the kernel agrees; else with the ACK behind it.
fn fast_open(to: SocketAddr, question: &Value) -> io::Result<Value> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    let bytes = bytes(question);
    let sent = socket.send_to_with_flags(&bytes, &to.into(), MSG_FASTOPEN)?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(&bytes[sent..])?;
    hear(stream, question)
}

/// Connections from one port, one after the other, each ended by the other side first.
fn again(to: SocketAddr, question: &Value) -> io::Result<Value> {
    let port = u16::try_from(question["port"].as_u64().unwrap()).unwrap();
    let once = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        let any: IpAddr =
            if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        socket.bind(&SocketAddr::new(any, port).into())?;
        socket.connect_timeout(&to.into(), patience(question))?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(patience(question)))?;
        stream.write_all(&bytes(question))?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received).map(|length| format!("{length} bytes"))
    };
    let ends =
        (0..question["count"].as_u64().unwrap()).map(|_| once().unwrap_or_else(|e| io_end(&e)));
    Ok(json!(ends.collect::<Vec<_>>()))
}

/// Whole IP packets, headers and all.
fn raw(to: SocketAddr, question: &Value) -> io::Result<Value> {
    let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::from(255)))?;
    let to = SocketAddr::new(to.ip(), 0).into();
    let packets = question["packets"].as_array().unwrap();
    for packet in packets {
        socket.send_to(&unhex(packet.as_str().unwrap()), &to)?;
    }
    Ok(json!({"sent": packets.len()}))
}

/// Many connections, each with the same bytes: broken off at once (`reset`), or held together until
/// each was ended from the other side. From as many threads as help.
fn storm(to: SocketAddr, question: &Value) -> Value {
    let count = question["count"].as_u64().unwrap();
    let threads = 8;
    let worker = |share: u64| {
        let mut held = Vec::new();
        let mut failed = 0;
        for _ in 0..share {
            let begun = connect(to, question).and_then(|mut stream| {
                stream.write_all(&bytes(question))?;
                Ok(stream)
            });
            match begun {
                Ok(stream) if question["reset"] == true => {
                    // The kernel sends a RST where bytes would linger.
                    let reset = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                    failed += u64::from(reset.is_err());
                }
                Ok(stream) => held.push(stream),
                Err(_) => failed += 1,
            }
        }
        let mut block = [0; 64];
        let mut left_alone = 0;
        for mut stream in held {
            while let Ok(1..) = stream.read(&mut block).inspect_err(|e| {
                left_alone += u64::from(io_end(e) == "silence");
            }) {}
        }
        (failed, left_alone)
    };
    let (mut failed, mut left_alone) = (0, 0);
    thread::scope(|scope| {
        let shares = (0..threads).map(|n| count / threads + u64::from(n < count % threads));
        let workers: Vec<_> = shares.map(|share| scope.spawn(move || worker(share))).collect();
        for worker in workers {
            let (more_failed, more_alone) = worker.join().unwrap();
            failed += more_failed;
            left_alone += more_alone;
        }
    });
    json!({"failed": failed, "left_alone": left_alone})
}

/// Opens a connection, says something, and keeps it for later.
fn keep(kept: &mut Vec<TcpStream>, to: SocketAddr, question: &Value) -> io::Result<Value> {
    let mut stream = connect(to, question)?;
    stream.write_all(&bytes(question))?;
    kept.push(stream);
    Ok(json!({"kept": kept.len()}))
}

/// As [`keep`] with as little room for what comes as there can be; what `steps` wait for is heard.
fn keep_narrow(kept: &mut Vec<TcpStream>, to: SocketAddr, question: &Value) -> io::Result<Value> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_recv_buffer_size(4096)?;
    socket.connect(&to.into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience(question)))?;
    for step in question["steps"].as_array().unwrap() {
        stream.write_all(&bytes(step))?;
        let until = unhex(step["until"].as_str().unwrap_or_default());
        let mut heard = Vec::new();
        while !heard.ends_with(&until) {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            heard.push(byte[0]);
        }
    }
    kept.push(stream);
    Ok(json!({"kept": kept.len()}))
}

/// Sends `hex` and `count` bytes behind it, all of them before it listens.
fn upload(to: SocketAddr, question: &Value) -> io::Result<Value> {
    let mut stream = connect(to, question)?;
    stream.set_write_timeout(Some(patience(question)))?;
    stream.write_all(&bytes(question))?;
    let count = usize::try_from(question["count"].as_u64().unwrap()).unwrap();
    let mut sent = 0;
    while sent < count {
        let part = [b'u'; 65_536];
        match stream.write(&part[..part.len().min(count - sent)]) {
            Ok(written) => sent += written,
            Err(e) => return Ok(json!({"end": io_end(&e), "received": "", "sent": sent})),
        }
    }
    let mut said = hear(stream, question)?;
    said["sent"] = json!(sent);
    Ok(said)
}

/// Says more on the connection that was kept last, and listens for a moment.
fn say_on(kept: &mut Vec<TcpStream>, question: &Value) -> io::Result<Value> {
    let mut stream = kept.pop().ok_or(io::ErrorKind::NotConnected)?;
    stream.write_all(&bytes(question))?;
    if question["shut"] == true {
        stream.shutdown(Shutdown::Write)?;
    }
    hear(stream, question)
}

/// Says one thing after the other, each once what is waited for (`until`) has come behind the last;
/// then hears all until the end.
fn converse(to: SocketAddr, question: &Value) -> io::Result<Value> {
    let mut stream = connect(to, question)?;
    let mut received = Vec::new();
    let mut block = [0; 4096];
    let mut hear = |stream: &mut TcpStream, until: &[u8]| loop {
        match stream.read(&mut block) {
            Ok(0) => return Some("end of stream".to_owned()),
            Ok(read) => received.extend(&block[..read]),
            Err(e) => return Some(io_end(&e)),
        }
        if !until.is_empty() && received.windows(until.len()).any(|part| part == until) {
            received.drain(..);
            return None;
        }
    };
    for step in question["steps"].as_array().unwrap() {
        if let Err(e) = stream.write_all(&bytes(step)) {
            return Ok(json!({"end": io_end(&e), "received": ""}));
        }
        let until = unhex(step["until"].as_str().unwrap_or_default());
        if until.is_empty() {
            continue;
        }
        if let Some(end) = hear(&mut stream, &until) {
            return Ok(json!({"end": end, "received": hex(&received)}));
        }
    }
    if question["shut"] == true {
        stream.shutdown(Shutdown::Write)?;
    }
    let end = hear(&mut stream, b"").unwrap_or_default();
    Ok(json!({"end": end, "received": hex(&received)}))
}

/// Keeps a listening socket as a socket unit does, whatever becomes of the gateways that it starts
/// with it. They end with this process.
pub(crate) fn hold() {
    let tcp = super::role::transparent(Type::STREAM, 15_001);
    tcp.listen(1).unwrap();
    let start = "exec 3<&0 </dev/null
        export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=tproxy
        exec setpriv --pdeathsig KILL \"$0\" run --config \"$1\"";
    let mut running: Option<Child> = None;
    super::role::serve(|question| {
        if let Some(mut child) = running.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        if question["do"] == "start" {
            let log = File::options().append(true).open(question["log"].as_str().unwrap()).unwrap();
            let child = Command::new("sh")
                .args(["-c", start])
                .args([&question["binary"], &question["config"]].map(|path| path.as_str().unwrap()))
                .stdin(OwnedFd::from(tcp.try_clone().unwrap()))
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn();
            running = Some(child.unwrap());
        }
        json!("done")
    });
}
