//! The API of the admin listener, asked of the built gateway: who may ask, what comes, and that it is as
//! docs/openapi.json says.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::gateway::{Gateway, PATIENCE};
use crate::schema::{fits, of_answer, openapi};

/// A policy that refuses by the names of its rules, whatever stands in them.
pub(crate) fn policy(dir: &Path, more: &str) -> String {
    let path = dir.join("policy.toml");
    let text = format!(
        "schema = 1\n[policy]\npermit = ['FR']\ncontact = 'it@hospital.example'\n\
         ask_url = 'https://ask.hospital.example/'\n\
         [audit]\ndirectory = '{}'\n\
         [[listen]]\nmode = 'proxy'\naddress = '127.0.0.1:0'\n\
         [[rule]]\nname = 'no <script>alert(1)</script>'\naction = 'block'\nhost = ['*.refused.example']\n\
         [[rule]]\nname = 'waived'\naction = 'allow'\nto = ['192.0.2.0/24']\nowner = 'IT'\n\
         until = 2999-12-31\nbasis = 'contract'\n{more}",
        dir.join("audit").display()
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// A gateway on free ports; `admin` is what else `[admin]` says, `more` what stands behind it.
fn gateway(dir: &Path, admin: &str) -> Gateway {
    let path = policy(dir, &format!("[admin]\naddress = '127.0.0.1:0'\n{admin}"));
    Gateway::start(&["--config", &path])
}

/// Status and body of one request, with whole header lines.
pub(crate) fn ask(at: &str, request: &str, headers: &str) -> (u16, String, String) {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    asked(stream, request, headers)
}

fn asked(
    mut stream: impl std::io::Read + std::io::Write,
    request: &str,
    headers: &str,
) -> (u16, String, String) {
    write!(stream, "{request} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

const LOCAL: &str = "Host: localhost\r\n";

fn get(gateway: &Gateway, path: &str) -> Value {
    let (status, _, body) = ask(&gateway.admin, &format!("GET /api/v1/{path}"), LOCAL);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Asks the explicit proxy for a name that is refused, and gives the event id.
fn refused(gateway: &Gateway, name: &str, accept: &str) -> String {
    let headers = format!("Host: {name}\r\nAccept: {accept}\r\n");
    let (status, head, body) = ask(&gateway.proxy, &format!("GET http://{name}/"), &headers);
    assert_eq!(status, 451, "{body}");
    let event = head.split_once("; event=").unwrap().1;
    event.split(['"', ';']).next().unwrap().to_owned()
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = std::time::Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(found) = look() {
            return found;
        }
        std::thread::yield_now();
    }
    panic!("never: {what}");
}

#[test]
fn every_answer_is_as_its_description_says() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(dir.path(), "");
    let event = refused(&gateway, "a.refused.example", "*/*");
    until("the refusal is listed", || {
        (get(&gateway, "refusals")["seen"].as_u64().unwrap() > 0).then_some(())
    });
    until("the register is there", || {
        let (status, ..) = ask(&gateway.admin, "GET /api/v1/top?hours=24", LOCAL);
        (status == 200).then_some(())
    });
    let document = openapi();
    let of_event = format!("events/{event}");
    for (path, described) in [
        ("state", "/state"),
        ("verdicts", "/verdicts"),
        ("connections?order=up&limit=5&host=example", "/connections"),
        ("top", "/top"),
        ("top?by=country&direction=down", "/top"),
        ("top?hours=24&by=country", "/top"),
        ("refusals?limit=5", "/refusals"),
        (of_event.as_str(), "/events/{id}"),
        ("explain?to=192.0.2.9&host=a.example&client=10.0.0.1", "/explain"),
        ("explain?to=[2001:db8::1]:443&protocol=quic&ech=true", "/explain"),
        ("explain?host=a.refused.example&client=10.0.0.1", "/explain"),
        ("explain?host=b.example", "/explain"),
        ("waivers", "/waivers"),
        ("tables", "/tables"),
        ("record", "/record"),
        ("policy", "/policy"),
    ] {
        let answer = get(&gateway, path);
        if let Err(why) = fits(&document, of_answer(&document, described, "get"), &answer) {
            panic!("{path}: {why}");
        }
    }
    let (status, _, body) = ask(&gateway.admin, "GET /api/v1/connections/1-1", LOCAL);
    assert_eq!(status, 404);
    let problem: Value = serde_json::from_str(&body).unwrap();
    let schema = &document["components"]["schemas"]["Problem"];
    fits(&document, schema, &problem).unwrap();
    let asked = get(&gateway, &of_event);
    assert_eq!(asked["event"]["rule"], "no <script>alert(1)</script>");
    assert_eq!(asked["told"]["problem"]["contact"], "it@hospital.example");
    assert_eq!(asked["event"]["reason"], "rule");
    let waivers = get(&gateway, "waivers");
    assert_eq!(waivers["waivers"][0]["rule"], "waived");
    assert_eq!(waivers["waivers"][0]["status"], "holds");
    assert_eq!(get(&gateway, "explain?to=192.0.2.9")["reason"], "waiver");
    let by_name = get(&gateway, "explain?host=a.refused.example");
    assert_eq!(by_name["by_name"]["verdict"], "block");
    let record = until("the record is summed up", || {
        Some(get(&gateway, "record")).filter(|record| record["bytes_time"].is_string())
    });
    assert_eq!(record["kept"], true);
}

#[test]
fn what_has_no_place_by_its_nature_is_counted_apart() {
    let dir = tempfile::tempdir().unwrap();
    // Nothing is dialled.
    let on = "[policy.on]\nprivate = 'block'\nanycast = 'block'\n";
    let gateway = gateway(dir.path(), on);
    let of = || {
        let verdicts = get(&gateway, "verdicts");
        ["no_country", "no_place"].map(|key| verdicts[key].as_u64().unwrap())
    };
    // A name that no address saves, a private address, the gateway itself; and one of many places.
    for (host, counts) in [
        ("a.refused.example", [1, 1]),
        ("10.99.0.1", [2, 2]),
        ("127.0.0.1:1", [3, 3]),
        ("8.8.8.8", [3, 3]),
    ] {
        let headers = format!("Host: {host}\r\n");
        let (status, _, body) = ask(&gateway.proxy, &format!("GET http://{host}/"), &headers);
        assert_eq!(status, 451, "{host}: {body}");
        assert_eq!(of(), counts, "{host}");
    }
}

#[test]
fn where_no_record_is_kept_nobody_is_sent_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let detail = |gateway: &Gateway| {
        let (status, _, body) = ask(&gateway.admin, "GET /api/v1/events/NONE", LOCAL);
        assert_eq!(status, 404);
        let problem: Value = serde_json::from_str(&body).unwrap();
        problem["detail"].as_str().unwrap().to_owned()
    };
    let kept = detail(&gateway(dir.path(), ""));
    assert!(kept.contains("audit show"), "{kept}");
    let path = dir.path().join("unkept.toml");
    let text = "schema = 1\n[policy]\npermit = ['FR']\n[[listen]]\nmode = 'proxy'\n\
                address = '127.0.0.1:0'\n[admin]\naddress = '127.0.0.1:0'\n";
    std::fs::write(&path, text).unwrap();
    let unkept = detail(&Gateway::start(&["--config", &path.display().to_string()]));
    assert!(!unkept.contains("audit show") && unkept.contains("no record is kept"), "{unkept}");
}

#[test]
fn an_event_that_memory_no_longer_has_is_found_in_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let event = {
        let gateway = gateway(dir.path(), "");
        let event = refused(&gateway, "a.refused.example", "*/*");
        gateway.signal("TERM");
        until("it has ended", || TcpStream::connect(&gateway.admin).err());
        event
    };
    let gateway = gateway(dir.path(), "");
    let asked = until("it is found", || {
        let request = format!("GET /api/v1/events/{event}");
        let (status, _, body) = ask(&gateway.admin, &request, LOCAL);
        (status == 200).then_some(body)
    });
    let asked: Value = serde_json::from_str(&asked).unwrap();
    assert_eq!((&asked["from"], &asked["event"]["id"]), (&"record".into(), &event.into()));
    let document = openapi();
    fits(&document, of_answer(&document, "/events/{id}", "get"), &asked).unwrap();
}

#[test]
fn another_name_another_site_and_a_change_without_the_header_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(dir.path(), "names = ['gateway.example']\n");
    let of = |request: &str, headers: &str| ask(&gateway.admin, request, headers).0;
    let read = "GET /api/v1/state";
    assert_eq!(of(read, "Host: gateway.example\r\n"), 200);
    assert_eq!(of(read, "Host: rebound.example\r\n"), 421);
    assert_eq!(of(read, "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n"), 403);
    for change in ["DELETE /api/v1/connections/1-1", "POST /api/v1/connections/1-1/kill"] {
        assert_eq!(of(change, LOCAL), 403, "{change} without the header");
        assert_eq!(of(change, &format!("{LOCAL}X-Schengate-Request: 1\r\n")), 404, "{change}");
        let forged = format!("{LOCAL}X-Schengate-Request: 1\r\nOrigin: http://evil.example\r\n");
        assert_eq!(of(change, &forged), 403, "{change} of another site");
    }
    assert_eq!(of("POST /api/v1/state", &format!("{LOCAL}X-Schengate-Request: 1\r\n")), 405);
    assert_eq!(of("GET /api/v1/", LOCAL), 404);
    assert_eq!(of("GET /api/v1/refusals?limit=0", LOCAL), 400);
    // What monitoring asks needs no name, as ever.
    assert_eq!(of("GET /metrics", "Host: rebound.example\r\n"), 200);
}

#[test]
fn a_token_is_asked_for_where_there_is_one_and_the_metrics_need_none() {
    let dir = tempfile::tempdir().unwrap();
    let (file, token) = (dir.path().join("token"), "0123456789abcdef0123456789abcdef");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let socket = dir.path().join("admin.sock");
    let admin = format!("token_file = '{}'\nsocket = '{}'\n", file.display(), socket.display());
    let gateway = gateway(dir.path(), &admin);
    let bearer = |token: &str| format!("{LOCAL}Authorization: Bearer {token}\r\n");
    let of = |headers: &str| ask(&gateway.admin, "GET /api/v1/state", headers).0;
    assert_eq!((of(LOCAL), of(&bearer("x")), of(&bearer(token))), (401, 401, 200));
    assert_eq!(ask(&gateway.admin, "GET /metrics", LOCAL).0, 200);
    let metadata = std::fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    let local = |headers: &str| {
        asked(UnixStream::connect(&socket).unwrap(), "GET /api/v1/state", headers).0
    };
    assert_eq!((local(LOCAL), local(&bearer(token))), (401, 200));
}

/// How `check` ends, and what it says.
fn checked(dir: &Path, admin: &str) -> (Option<i32>, String) {
    let path = policy(dir, &format!("[admin]\n{admin}"));
    let binary = env!("CARGO_BIN_EXE_schengate");
    let ran = Command::new(binary).args(["check", "--config", &path]).output().unwrap();
    (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
}

#[test]
fn what_would_let_anybody_ask_from_elsewhere_does_not_load() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["gateway.example".to_owned()]).unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("a.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("a.key"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("token"), "0123456789abcdef0123456789abcdef\n").unwrap();
    std::fs::set_permissions(path("token"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let elsewhere = "address = '192.0.2.1:9643'\n";
    let tls = "certificate = 'a.pem'\nkey = 'a.key'\n";
    for (admin, fault) in [
        (format!("{elsewhere}token_file = 'token'\n"), "in the clear"),
        (format!("{elsewhere}{tls}"), "who they are"),
        ("certificate = 'a.pem'\n".to_owned(), "without `key`"),
        ("client_ca = 'a.pem'\n".to_owned(), "over TLS alone"),
        ("token_file = 'none'\n".to_owned(), "token_file"),
        ("certificate = 'token'\nkey = 'a.key'\n".to_owned(), "no certificate"),
        ("names = ['a b']\n".to_owned(), "names"),
    ] {
        let (status, said) = checked(dir.path(), &admin);
        assert_eq!(status, Some(1), "{admin}: {said}");
        assert!(said.contains(fault), "{admin}: {said}");
    }
    for sound in [
        elsewhere.to_owned(),
        format!("{elsewhere}{tls}token_file = 'token'\n"),
        format!("{elsewhere}{tls}client_ca = 'a.pem'\n"),
    ] {
        let (status, said) = checked(dir.path(), &sound);
        assert_eq!(status, Some(0), "{sound}: {said}");
    }
}

#[test]
fn over_tls_the_same_is_answered_and_without_the_token_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("a.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("a.key"), made.signing_key.serialize_pem()).unwrap();
    let token = "0123456789abcdef0123456789abcdef";
    std::fs::write(path("token"), token).unwrap();
    std::fs::set_permissions(path("token"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let admin = "certificate = 'a.pem'\nkey = 'a.key'\ntoken_file = 'token'\n";
    let gateway = gateway(dir.path(), admin);
    let port = gateway.admin.rsplit(':').next().unwrap();
    let url = |path: &str| format!("https://localhost:{port}{path}");
    let curl = |path: &str, more: &[&str]| {
        let ran = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
            .arg(dir.path().join("a.pem"))
            .args(more)
            .arg(url(path))
            .output();
        String::from_utf8(ran.expect("curl").stdout).unwrap()
    };
    assert_eq!(curl("/api/v1/state", &[]), "401");
    assert_eq!(curl("/api/v1/state", &["-u", &format!("anna:{token}")]), "200");
    assert_eq!(curl("/metrics", &[]), "200");
}

#[test]
fn who_looks_on_is_told_of_refusals_and_more_than_the_bound_are_not_taken_in() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(dir.path(), "");
    let open = || {
        let mut stream = TcpStream::connect(&gateway.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /api/v1/stream HTTP/1.1\r\n{LOCAL}\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        (line, reader)
    };
    let (status, mut first) = open();
    assert!(status.contains(" 200 "), "{status}");
    // Far more than may: each of them is answered or closed, and none waits.
    let (mut taken, mut turned_away) = (Vec::new(), 0);
    for _ in 0..1000 {
        let (status, reader) = open();
        if status.contains(" 200 ") {
            taken.push(reader);
        } else {
            turned_away += 1;
        }
    }
    assert_eq!((taken.len(), turned_away), (15, 985));
    assert_eq!(ask(&gateway.admin, "GET /metrics", LOCAL).0, 200, "there is room for others");
    drop(taken);
    let event = refused(&gateway, "b.refused.example", "*/*");
    until("it is told", || {
        let mut line = String::new();
        first.read_line(&mut line).unwrap();
        (line.starts_with("data: ") && line.contains(&event)).then_some(())
    });
    until("there is a place again", || open().0.contains(" 200 ").then_some(()));
}

/// Opens so many connections to the admin listener, and says on each what is given.
fn crowd<S: std::io::Write>(open: impl Fn() -> S, says: &str) -> Vec<S> {
    let one = || {
        let mut stream = open();
        // One that was let go already takes no more.
        stream.write_all(says.as_bytes()).ok();
        stream
    };
    (0..200).map(|_| one()).collect()
}

#[test]
fn monitoring_is_answered_whatever_a_crowd_does_that_asks_nothing_or_does_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let gateway = gateway(dir.path(), &format!("socket = '{}'\n", socket.display()));
    let at_address = || {
        let stream = TcpStream::connect(&gateway.admin).unwrap();
        socket2::SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
        stream
    };
    let at_socket = || UnixStream::connect(&socket).unwrap();
    // More than the kernel keeps for who does not read.
    let unread = format!("GET / HTTP/1.1\r\n{LOCAL}\r\n").repeat(40);
    for says in ["", "GET /metrics HTTP/1.1\r\nHost: local", unread.as_str()] {
        let (mut there, here) = (crowd(at_address, says), crowd(at_socket, says));
        for path in ["/metrics", "/readyz", "/api/v1/state"] {
            let request = format!("GET {path}");
            assert_eq!(ask(&gateway.admin, &request, LOCAL).0, 200, "{path} beside {says:?}");
            assert_eq!(asked(at_socket(), &request, LOCAL).0, 200, "{path} beside {says:?}");
            // A byte now and then gives nobody more time.
            there.iter_mut().for_each(|stream| drop(stream.write_all(b"h")));
        }
        drop((there, here));
    }
    let turned_away = gateway.metric("schengate_limits_hit_total{limit=\"admin\"}");
    assert!(turned_away.parse::<u64>().unwrap() > 0, "it is counted");
    // Who may not open the socket takes no place to look on of those who may.
    let stream = format!("GET /api/v1/stream HTTP/1.1\r\n{LOCAL}\r\n");
    let all = crowd(at_address, &stream);
    let mut local = at_socket();
    local.set_read_timeout(Some(PATIENCE)).unwrap();
    local.write_all(stream.as_bytes()).unwrap();
    let mut status = String::new();
    BufReader::new(local).read_line(&mut status).unwrap();
    assert!(status.contains(" 200 "), "{status}");
    assert_eq!(ask(&gateway.admin, "GET /readyz", LOCAL).0, 200);
    drop(all);
}

/// How a command that asks the API ends, and what it says on stdout.
fn command(gateway: &Gateway, arguments: &[&str]) -> (Option<i32>, String) {
    let url = format!("http://{}", gateway.admin);
    let binary = env!("CARGO_BIN_EXE_schengate");
    let ran = Command::new(binary).args(arguments).args(["--admin", &url]).output().unwrap();
    (ran.status.code(), String::from_utf8(ran.stdout).unwrap())
}

#[test]
fn at_a_terminal_the_same_is_told_in_plain_text() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(dir.path(), "");
    let event = refused(&gateway, "a.refused.example", "*/*");
    until("the refusal is listed", || {
        (get(&gateway, "refusals")["seen"].as_u64().unwrap() > 0).then_some(())
    });
    let (status, top) = command(&gateway, &["top"]);
    assert_eq!(status, Some(0));
    let words = ["mode enforce", "live ", "record written", "a.refused.example", &event];
    for word in words {
        assert!(top.contains(word), "{word} in {top}");
    }
    assert!(!top.contains('\u{1b}'), "no terminal, no command to one: {top}");
    let (status, listed) = command(&gateway, &["connections"]);
    assert_eq!((status, listed.lines().next()), (Some(0), Some("0 shown, 0 match, 0 live")));
    assert_eq!(command(&gateway, &["connections", "--kill", "1-1/../x"]).0, Some(1));
    let (status, told) = command(&gateway, &["tail", "--reason", "rule", "--count", "1"]);
    assert_eq!(status, Some(0));
    assert!(told.contains("block rule ? 127.0.0.1:") && told.contains(&event), "{told}");
    let (status, told) = command(&gateway, &["tail", "--json", "--count", "1"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((status, &told["id"]), (Some(0), &event.as_str().into()));
    let (status, why) = command(&gateway, &["why", &event]);
    assert_eq!(status, Some(1), "{why}");
    assert!(why.contains("today        block: rule. No address can"), "{why}");
    assert_eq!(command(&gateway, &["why", "1-1"]).0, Some(2));
    // The same text as the refused is told, word for word.
    let headers = "Host: a.refused.example\r\nAccept: text/plain\r\n";
    let (_, _, page) = ask(&gateway.proxy, "GET http://a.refused.example/", headers);
    let of_page = page.split_once("\nEvent: ").unwrap();
    let (told, id) = (of_page.0, of_page.1.lines().next().unwrap());
    until("it is known", || {
        let (status, why) = command(&gateway, &["why", id]);
        (status == Some(1)).then(|| assert!(why.starts_with(told), "{why}\n{told}"))
    });
}

#[test]
fn where_nobody_answers_the_commands_say_so() {
    let binary = env!("CARGO_BIN_EXE_schengate");
    for command in [&["top"][..], &["connections"], &["tail"], &["why", "1-1"]] {
        for admin in ["http://127.0.0.1:1", "unix:/nowhere/admin.sock", "ftp://x", "http://"] {
            let ran = Command::new(binary).args(command).args(["--admin", admin]).output().unwrap();
            let said = String::from_utf8(ran.stderr).unwrap();
            assert_eq!(ran.status.code(), Some(2), "{command:?} {admin}: {said}");
            assert!(said.starts_with("schengate: ") && said.lines().count() == 1, "{said}");
        }
    }
}
