//! Connections that break off: what had been sent before arrives, the end is seen, and nothing stays
//! behind. HAProxy, where it is installed, gets the same clients and servers beside the gateway.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::SockRef;

use crate::lab::role::serve;
use crate::lab::{self, Gateway, Helper, Lab, PERMITTED, at, has, lab, said, wait_until};

/// Where the world breaks off.
const PORT: u16 = 9002;
/// Where its web server refuses large bodies.
const WEB: u16 = 9003;
/// Where HAProxy leads to either.
const HAPROXY: [u16; 2] = [7002, 7003];

/// The first byte of a connection says what the world does; a number of eight bytes follows.
const ANSWERS_EARLY: u8 = 0;
const BREAKS_BEHIND: u8 = 1;
const IS_KEPT: u8 = 2;

const LAST_WORDS: &[u8] = b"last words";

/// Descriptors of the empty pipes that the workers keep.
const PIPES: usize = 64;

/// Says its last words and breaks off with a reset.
fn break_off(mut stream: TcpStream) {
    stream.write_all(LAST_WORDS).unwrap();
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// What comes on each until its end: how many bytes, and which end.
fn hear_out(streams: &mut Vec<TcpStream>) -> Value {
    let hear = |mut stream: TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut all = Vec::new();
        let end = match stream.read_to_end(&mut all) {
            Ok(_) => "end of stream".to_owned(),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => "reset".to_owned(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => "silence".to_owned(),
            Err(e) => e.to_string(),
        };
        json!([all.len(), end])
    };
    streams.drain(..).map(hear).collect()
}

#[derive(Default)]
struct Ledger {
    kept: Vec<TcpStream>,
    broke: u64,
}

pub(crate) fn world() {
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let listener = TcpListener::bind((PERMITTED[0], PORT)).unwrap();
    let seen = Arc::clone(&ledger);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, ledger) = (stream.unwrap(), Arc::clone(&seen));
            thread::spawn(move || drop(world_connection(stream, &ledger)));
        }
    });
    serve(|question| {
        let mut ledger = ledger.lock().unwrap();
        match question.as_str() {
            Some("kept") => json!(ledger.kept.len()),
            Some("broke") => json!(ledger.broke),
            Some("break") => json!(ledger.kept.drain(..).map(break_off).count()),
            Some("hear") => hear_out(&mut ledger.kept),
            _ => panic!("the world does not understand {question}"),
        }
    });
}

fn world_connection(mut stream: TcpStream, ledger: &Mutex<Ledger>) -> io::Result<()> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let [does, count @ ..] = head;
    let count = usize::try_from(u64::from_be_bytes(count)).unwrap();
    match does {
        ANSWERS_EARLY => {
            stream.write_all(&vec![b'x'; count])?;
            // Of what lies unread the kernel makes a reset.
            stream.peek(&mut [0])?;
        }
        BREAKS_BEHIND => {
            stream.write_all(&vec![b'x'; count])?;
            while schengate::sys::unacknowledged(stream.as_fd())? > 0 {
                thread::yield_now();
            }
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            drop(stream);
            ledger.lock().unwrap().broke += 1;
        }
        _ => {
            stream.write_all(b"!")?;
            ledger.lock().unwrap().kept.push(stream);
        }
    }
    Ok(())
}

pub(crate) fn client() {
    let mut kept: Vec<TcpStream> = Vec::new();
    let mut held = 0;
    serve(|question| {
        let number = |key: &str| question[key].as_u64().unwrap();
        let to: Option<SocketAddr> = question["to"].as_str().map(|to| to.parse().unwrap());
        let open = |does| {
            let mut stream = TcpStream::connect(to.unwrap())?;
            let mut head = vec![does];
            head.extend(number("count").to_be_bytes());
            stream.write_all(&head)?;
            io::Result::Ok(stream)
        };
        match question["do"].as_str().unwrap() {
            "reach" => json!(TcpStream::connect(to.unwrap()).is_ok()),
            // Uploads to the end, or until it fails, and reads the answer only then.
            "early" => {
                let body = vec![b'u'; 8_000_000];
                let whole = (0..number("runs")).filter(|_| {
                    let mut stream = open(ANSWERS_EARLY).unwrap();
                    drop(stream.write_all(&body));
                    let mut answer = Vec::new();
                    drop(stream.read_to_end(&mut answer));
                    answer.len() as u64 == number("count")
                });
                json!(whole.count())
            }
            "open-behind" => {
                kept.extend((0..number("runs")).map(|_| open(BREAKS_BEHIND).unwrap()));
                held = 0;
                json!(kept.len())
            }
            // A slow reader: a little of each, whenever it is asked.
            "read-some" => {
                let mut block = [0; 65_536];
                for mut stream in &kept {
                    stream.set_nonblocking(true).unwrap();
                    held += stream.read(&mut block).unwrap_or(0);
                    stream.set_nonblocking(false).unwrap();
                }
                json!(held)
            }
            "keep" => {
                for _ in 0..number("runs") {
                    let mut stream = open(IS_KEPT).unwrap();
                    stream.read_exact(&mut [0]).unwrap();
                    kept.push(stream);
                }
                json!(kept.len())
            }
            "break" => json!(kept.drain(..).map(break_off).count()),
            "hear" => hear_out(&mut kept),
            _ => panic!("the client does not understand {question}"),
        }
    });
}

fn policy() -> String {
    let (places, admin) = (lab::places(), lab::ADMIN);
    format!(
        "schema = 1
[policy]
mode = \"enforce\"
permit = [\"FR\"]

{places}[[listen]]
mode = \"tproxy\"
address = \"[::]:15001\"

[admin]
address = \"{admin}\"
"
    )
}

/// Who stands between client and world.
enum Between<'lab> {
    Gateway(Gateway<'lab>),
    Haproxy(Child),
}

struct Scene<'lab> {
    between: Between<'lab>,
    world: Helper,
    client: Helper,
}

impl<'lab> Scene<'lab> {
    fn gateway(lab: &'lab Lab) -> Self {
        let gateway = lab.start_gateway(&policy());
        gateway.capture();
        Self::start(lab, Between::Gateway(gateway))
    }

    fn haproxy(lab: &'lab Lab) -> Self {
        let mut text = "global\n nbthread 1\n maxconn 4000\ndefaults\n mode tcp\n\
            timeout connect 10s\n timeout client 1h\n timeout server 1h\n"
            .to_owned();
        for (own, port) in HAPROXY.into_iter().zip([PORT, WEB]) {
            let to = PERMITTED[0];
            text += &format!("listen to{port}\n bind 192.0.2.1:{own}\n server one {to}:{port}\n");
        }
        let config = lab.write("haproxy.cfg", &text);
        let log = File::create(config.with_extension("log")).unwrap();
        let mut command = lab.gateway.command("haproxy");
        let child = command.args(["-db", "-f"]).arg(&config).stderr(log).stdout(Stdio::null());
        Self::start(lab, Between::Haproxy(child.spawn().unwrap()))
    }

    fn start(lab: &'lab Lab, between: Between<'lab>) -> Self {
        let (world, client) =
            (lab.world.helper("abrupt-world"), lab.client.helper("abrupt-client"));
        let mut scene = Self { between, world, client };
        let to = scene.to(PORT);
        wait_until("somebody listens", || {
            (scene.client.ask(&json!({"do": "reach", "to": to})) == true).then_some(())
        });
        scene
    }

    /// Where the client has to connect to.
    fn to(&self, port: u16) -> String {
        match &self.between {
            Between::Gateway(_) => at(PERMITTED[0], port),
            Between::Haproxy(_) => {
                let own = HAPROXY[usize::from(port != PORT)];
                at(lab::GATEWAY[0], own)
            }
        }
    }

    fn pid(&self) -> u32 {
        match &self.between {
            Between::Gateway(gateway) => gateway.pid(),
            Between::Haproxy(child) => child.id(),
        }
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid().to_string()]).status();
        assert!(status.unwrap().success());
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// The client does this with a connection for each run.
    fn ask(&mut self, does: &str, runs: u64, count: u64) -> Value {
        let to = self.to(PORT);
        self.client.ask(&json!({"do": does, "to": to, "runs": runs, "count": count}))
    }

    /// Opens so many connections, then has one side say its last words and break off on all of them
    /// while nobody stands between: both come in one event. How many of the other side's connections
    /// had the words, and an end that is a reset.
    fn resets_behind_data(&mut self, runs: u64, client_breaks: bool) -> usize {
        let kept = self.ask("keep", runs, 0);
        assert_eq!(kept, runs);
        wait_until("the world has all", || (self.world.ask(&json!("kept")) == runs).then_some(()));
        self.signal("-STOP");
        let broke = if client_breaks {
            self.client.ask(&json!({"do": "break"}))
        } else {
            self.world.ask(&json!("break"))
        };
        self.signal("-CONT");
        assert_eq!(broke, runs);
        let heard = if client_breaks {
            self.world.ask(&json!("hear"))
        } else {
            self.client.ask(&json!({"do": "hear"}))
        };
        let right = json!([LAST_WORDS.len(), "reset"]);
        heard.as_array().unwrap().iter().filter(|end| **end == right).count()
    }

    /// A slow reader of answers behind which the world breaks off once each is acknowledged: what it
    /// read in all, and whether no end looked complete.
    fn slow_reads(&mut self, runs: u64, count: u64) -> (u64, bool) {
        let before = self.world.ask(&json!("broke")).as_u64().unwrap();
        self.ask("open-behind", runs, count);
        wait_until("the world has broken off", || {
            let broke = self.world.ask(&json!("broke")).as_u64().unwrap() - before;
            if broke < runs {
                self.client.ask(&json!({"do": "read-some"}));
            }
            (broke == runs).then_some(())
        });
        let mut got = self.client.ask(&json!({"do": "read-some"})).as_u64().unwrap();
        let rest = self.client.ask(&json!({"do": "hear"}));
        let rest = rest.as_array().unwrap();
        got += rest.iter().map(|end| end[0].as_u64().unwrap()).sum::<u64>();
        (got, rest.iter().all(|end| end[1] == "reset"))
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        if let Between::Haproxy(child) = &mut self.between {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The same with HAProxy in the gateway's place, in a laboratory of its own.
fn beside<T>(test: &str, does: impl FnOnce(&mut Scene<'_>) -> T) -> Option<T> {
    if !has("haproxy") {
        println!("LEFT OUT: {test} beside HAProxy, which is not installed");
        return None;
    }
    let lab = lab(test)?;
    Some(does(&mut Scene::haproxy(&lab)))
}

#[test]
fn l01_a_reset_that_comes_with_data_ends_the_connection_on_both_sides() {
    let test = "l01_a_reset_that_comes_with_data";
    let Some(lab) = lab(test) else { return };
    let both = |scene: &mut Scene<'_>| [true, false].map(|side| scene.resets_behind_data(50, side));
    let theirs = beside(test, both);
    let mut scene = Scene::gateway(&lab);
    // What a worker keeps once it was needed.
    scene.resets_behind_data(1, true);
    let before = scene.descriptors();
    let ours = both(&mut scene);
    println!("data and a reset of 50 clients, of 50 servers: told of {ours:?}; HAProxy {theirs:?}");
    assert_eq!(ours, [50, 50]);
    wait_until("every descriptor is back", || (scene.descriptors() <= before).then_some(()));
    let Between::Gateway(gateway) = &scene.between else { unreachable!() };
    wait_until("every record is closed", || {
        (gateway.count("schengate_connections_active ") == 0.0).then_some(())
    });
}

#[test]
fn l02_an_early_answer_arrives_whole_thirty_times_of_thirty() {
    let test = "l02_an_early_answer";
    let Some(lab) = lab(test) else { return };
    // What fits the server's first window: the rest of a longer one it destroys itself.
    let early = |scene: &mut Scene<'_>| [20, 10_000].map(|size| scene.ask("early", 30, size));
    let theirs = beside(test, early);
    let ours = early(&mut Scene::gateway(&lab));
    println!(
        "answers of 20 B and 10 kB to an upload of 8 MB: whole {ours:?} of 30; HAProxy {theirs:?}"
    );
    assert_eq!(ours, [30, 30]);
}

#[test]
fn l02_a_slow_reader_has_the_whole_of_an_acknowledged_answer() {
    let test = "l02_a_slow_reader";
    let Some(lab) = lab(test) else { return };
    let reads = |scene: &mut Scene<'_>| scene.slow_reads(8, 2_000_000);
    let theirs = beside(test, reads);
    let mut scene = Scene::gateway(&lab);
    let before = scene.descriptors();
    let ours = reads(&mut scene);
    println!("8 answers of 2 MB, a reset behind each: {ours:?}; HAProxy {theirs:?}");
    assert_eq!(ours, (16_000_000, true), "bytes, and no end that looks complete");
    wait_until("descriptors are back", || (scene.descriptors() <= before + PIPES).then_some(()));
}

/// A web server that refuses a large body at once, and closes on what it does not read.
fn nginx(lab: &Lab) -> Child {
    let text = format!(
        "daemon off; master_process off; error_log stderr crit; pid nginx.pid;
        events {{ }}
        http {{
            access_log off;
            client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
            uwsgi_temp_path uwsgi; scgi_temp_path scgi;
            lingering_close off;
            server {{ listen {}:{WEB}; client_max_body_size 1k; }}
        }}\n",
        PERMITTED[0]
    );
    let config = lab.write("nginx.conf", &text);
    let directory = config.parent().unwrap();
    let mut command = lab.world.command("nginx");
    command.arg("-p").arg(directory).arg("-c").arg(&config).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// How often curl has the whole answer to an upload of 8 MB.
fn curl(lab: &Lab, scene: &mut Scene<'_>, runs: usize) -> usize {
    let body = lab.write("upload", &"u".repeat(8_000_000));
    let to = scene.to(WEB);
    wait_until("the web server listens", || {
        (scene.client.ask(&json!({"do": "reach", "to": to})) == true).then_some(())
    });
    let whole = (0..runs).filter(|_| {
        let mut command = lab.client.command("curl");
        command.args(["-s", "-S", "--noproxy", "*", "--max-time", "20", "-H", "Expect:", "-T"]);
        let output = command.arg(&body).arg(format!("http://{to}/up")).output().unwrap();
        let page = String::from_utf8_lossy(&output.stdout).into_owned();
        let whole = page.contains("413 Request Entity Too Large") && page.contains("</html>");
        if !whole {
            println!("curl: {}", said(&output));
        }
        whole
    });
    whole.count()
}

#[test]
fn l02_curl_has_the_whole_413_of_nginx() {
    let test = "l02_curl";
    if !has("nginx") || !has("curl") {
        println!("LEFT OUT: {test}: nginx or curl is not installed");
        return;
    }
    let Some(lab) = lab(test) else { return };
    let theirs = has("haproxy").then(|| {
        let lab = lab::lab(test).unwrap();
        let mut web = nginx(&lab);
        let whole = curl(&lab, &mut Scene::haproxy(&lab), 30);
        drop((web.kill(), web.wait()));
        whole
    });
    let mut web = nginx(&lab);
    let whole = curl(&lab, &mut Scene::gateway(&lab), 30);
    drop((web.kill(), web.wait()));
    println!("curl has the whole 413 of nginx {whole} times of 30; through HAProxy {theirs:?}");
    assert_eq!(whole, 30);
}
