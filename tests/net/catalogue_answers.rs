//! The rows of docs/catalogue.md about answers to clear-text HTTP and about what becomes of a client
//! that is told no, each a test of its id, over the built binary in a laboratory of namespaces.

use std::process::Output;

use serde_json::{Value, json};

use crate::lab::answers::{BODY, PORT};
use crate::lab::role::{hex, unhex};
use crate::lab::{self, REFUSED, at, has, lab, wait_until};
use crate::requests::{self, PROXY, SITES, Scene, Site, Way, request};

const SITE: Site = Site { port: PORT, ..SITES[0] };
const WAYS: [Way; 4] = [Way::Tproxy, Way::Connect, Way::Socks, Way::Http];

/// All that comes back to a request of a connection that closes behind it.
fn ask(scene: &mut Scene<'_>, way: Way, line: &str, more: &str) -> String {
    let more = format!("Connection: close\r\n{more}");
    let end = scene.converse(way, &SITE, &[(request(way, line, SITE.fine, PORT, &more), "")]);
    assert_ne!(end["end"], "silence", "{way:?} {line}: {end}");
    String::from_utf8(unhex(end["received"].as_str().unwrap())).unwrap()
}

/// How many final lines there are, once every connection has its own.
fn settled(scene: &Scene<'_>) -> usize {
    wait_until("every line is written", || {
        let lines = scene.lines().len();
        let count = format!("schengate_connection_duration_seconds_count {lines}");
        let shows = |line: &str| scene.gateway.shows(line);
        (shows("schengate_connections_active 0") && shows(&count)).then_some(lines)
    })
}

/// The final line of the record behind so many earlier ones.
fn line_behind(scene: &Scene<'_>, before: usize) -> Value {
    wait_until("its line is written", || scene.lines().get(before).cloned())
}

/// The body of an answer, whatever its framing, read by the one that is in it.
fn body(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let is_chunked = head.contains("transfer-encoding: chunked");
    assert!(!(is_chunked && length.is_some()), "one framing: {answer}");
    if is_chunked {
        let inside = body.strip_prefix("a\r\n").and_then(|rest| rest.strip_suffix("\r\n0\r\n\r\n"));
        return inside.unwrap_or(body).to_owned();
    }
    let length = length.map_or(body.len(), |length| length.parse().expect("one length"));
    assert_eq!(body.len(), length, "{answer}");
    body.to_owned()
}

#[test]
fn a02_an_answer_has_the_one_framing_that_is_left_or_is_given_up() {
    let Some(lab) = lab("a02") else { return };
    let mut scene = Scene::start(&lab, "tproxy", "");
    for way in WAYS {
        for path in ["length-and-chunks", "chunks-and-length", "same-lengths", "list-of-lengths"] {
            let answer = ask(&mut scene, way, &format!("GET /{path}"), "");
            assert!(answer.starts_with("HTTP/1.1 200 "), "{way:?} {path}: {answer}");
            assert_eq!(body(&answer), BODY, "{way:?} {path}: {answer}");
            assert_eq!(
                answer.to_lowercase().matches("content-length:").count()
                    + answer.to_lowercase().matches("transfer-encoding:").count(),
                1,
                "{answer}"
            );
        }
        for path in ["other-lengths", "gzip-chunked", "chunked-twice", "signed-length", "no-status"]
        {
            let before = settled(&scene);
            let answer = ask(&mut scene, way, &format!("GET /{path}"), "");
            assert!(answer.starts_with("HTTP/1.1 502 "), "{way:?} {path}: {answer}");
            assert!(answer.contains("error=http_protocol_error"), "{way:?} {path}: {answer}");
            let line = line_behind(&scene, before);
            assert_eq!(line["end"], "bad-answer", "{way:?} {path}: {line}");
        }
    }
}

#[test]
fn a08_odd_heads_that_have_one_reading_are_answers() {
    let Some(lab) = lab("a08") else { return };
    let mut scene = Scene::start(&lab, "tproxy", "");
    for way in WAYS {
        for path in ["many-fields", "blank-before-colon"] {
            let answer = ask(&mut scene, way, &format!("GET /{path}"), "");
            assert!(answer.starts_with("HTTP/1.1 200 "), "{way:?} {path}: {answer}");
            assert_eq!(body(&answer), BODY);
            assert!(!answer.contains(" :"), "{answer}");
        }
    }
}

#[test]
fn a08_an_overload_is_503_and_says_when_to_try_again() {
    let Some(lab) = lab("a08 overload") else { return };
    let mut scene = Scene::start(&lab, "tproxy", "max_connections = 1\n");
    let hang = request(Way::Http, "GET /hang", SITE.fine, PORT, "");
    let kept = json!({"do": "keep", "to": PROXY, "hex": hex(&hang)});
    scene.client.ask(&kept);
    wait_until("it is forwarded", || (scene.lab.record().len() == 1).then_some(()));
    let answer = ask(&mut scene, Way::Http, "GET /", "");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("Retry-After: "), "{answer}");
    assert!(answer.contains("error=connection_limit_reached"), "{answer}");
    let line = line_behind(&scene, 0);
    assert_eq!(
        (line["verdict"].as_str(), line["reason"].as_str()),
        (Some("block"), Some("overload"))
    );
    scene.client.ask(&json!({"do": "let-go", "to": PROXY}));
}

#[test]
fn l07_what_comes_before_the_answer_is_the_destinations_own() {
    let Some(lab) = lab("l07") else { return };
    let mut scene = Scene::start(&lab, "tproxy", "");
    let expects = "Expect: 100-continue\r\nContent-Length: 10\r\n";
    for way in WAYS {
        let answer = ask(&mut scene, way, "GET /hints", "");
        assert_eq!(answer.matches("HTTP/1.1 103 Early Hints\r\n").count(), 2, "{way:?}: {answer}");
        assert!(answer.contains("HTTP/1.1 200 "), "{way:?}: {answer}");
        // A client that waits for leave to send its body.
        let head = |path: &str| request(way, path, SITE.fine, PORT, expects);
        scene.world.ask(&json!("kept"));
        let said = [(head("PUT /ask-for-the-body"), " 100 Continue\r\n"), (BODY.into(), BODY)];
        let mut ask = said.to_vec();
        ask.push((request(way, "GET /", SITE.fine, PORT, "Connection: close\r\n"), ""));
        let end = scene.converse(way, &SITE, &ask);
        let text = unhex(end["received"].as_str().unwrap());
        assert!(text.starts_with(b"HTTP/1.1 200 "), "the connection goes on: {way:?} {end}");
        let came = scene.world.ask(&json!("kept"));
        assert!(came.as_str().unwrap().contains("early: 0;"), "{way:?}: {came}");
        // One that does not, and is told no: what it sends behind that is nobody's request.
        let second = request(way, "GET /smuggled", SITE.refused, PORT, "");
        // As long as the body would have been: whoever still takes it for the body sends it on whole.
        let expects = format!("Expect: 100-continue\r\nContent-Length: {}\r\n", second.len());
        let first = request(way, "PUT /refuse-the-body", SITE.fine, PORT, &expects);
        let said = [(first, "417 Expectation Failed\r\n"), (second, "")];
        let end = scene.converse(way, &SITE, &said);
        assert_ne!(end["end"], "silence", "{way:?}");
        let came = scene.world.ask(&json!("kept"));
        assert!(came.as_str().unwrap().contains("early: 0;"), "{way:?}: {came}");
        let behind = came.as_str().unwrap().rsplit("early: 0;").next().unwrap();
        assert_eq!(behind, "", "{way:?}: {came}");
        // A body that is none is the client's fault.
        let before = settled(&scene);
        let broken = request(way, "POST /", SITE.fine, PORT, "Transfer-Encoding: chunked\r\n");
        let end = scene.converse(way, &SITE, &[([&broken[..], b"+3\r\nabc\r\n"].concat(), "")]);
        let text = unhex(end["received"].as_str().unwrap());
        assert!(text.starts_with(b"HTTP/1.1 400 "), "{way:?}: {end}");
        assert_eq!(line_behind(&scene, before)["end"], "bad-request", "{way:?}");
    }
}

/// What a program of the client says.
fn run(scene: &Scene<'_>, program: &str, arguments: &[&str]) -> Output {
    scene.lab.client.command(program).args(arguments).output().unwrap()
}

#[test]
fn a03_a_refused_upload_is_told_so_though_all_of_it_is_sent_first() {
    const UPLOAD: usize = 30_000_000;
    let Some(lab) = lab("a03") else { return };
    let mut scene = Scene::start(&lab, "tproxy", "");
    let refused = Site { address: REFUSED[0], fine: "refused.example", ..SITE };
    let length = format!("Content-Length: {UPLOAD}\r\n");
    let sizes = format!("{:x}\r\n", UPLOAD - 12);
    for way in [Way::Tproxy, Way::Http] {
        let to = if way.is_captured() { at(refused.address, PORT) } else { PROXY.to_owned() };
        for fields in [length.as_str(), "Transfer-Encoding: chunked\r\n"] {
            let head = request(way, "POST /up", refused.fine, PORT, fields);
            let head = if fields == length { head } else { [&head[..], sizes.as_bytes()].concat() };
            let ask = json!({"do": "upload", "to": to, "hex": hex(&head), "count": UPLOAD});
            let end = scene.client.ask(&ask);
            let text = unhex(end["received"].as_str().unwrap());
            assert_eq!(end["sent"], UPLOAD, "{way:?}: {end}");
            assert!(text.starts_with(b"HTTP/1.1 451 "), "{way:?}: {end}");
            assert!(text.ends_with(b"}\n"), "{way:?}: whole: {end}");
        }
    }
    assert_eq!(scene.world.arrived(REFUSED[0]), (0, 0));
    let file = lab.write("upload", &"u".repeat(UPLOAD));
    let (file, url) = (file.to_str().unwrap(), format!("http://{}/up", at(REFUSED[0], PORT)));
    let proxy = format!("http://{PROXY}");
    for _ in 0..3 {
        if has("wget") {
            let posted = format!("--post-file={file}");
            let common = ["-S", "-O", "/dev/null", "--tries=1", "-T", "20", &posted, &url];
            for through in [
                &["--no-proxy"][..],
                &["-e", "use_proxy=yes", "-e", &format!("http_proxy={proxy}")],
            ] {
                let output = run(&scene, "wget", &[through, &common[..]].concat());
                let said = lab::said(&output);
                assert!(said.contains(" 451 "), "wget {through:?}: {said}");
            }
        }
        if has("curl") {
            let data = format!("@{file}");
            let common = [
                "-s",
                "-w",
                "%{http_code}",
                "-o",
                "/dev/null",
                "-H",
                "Expect:",
                "--data-binary",
                &data,
                &url,
            ];
            for through in [&["--noproxy", "*"][..], &["-x", &proxy]] {
                let output = run(&scene, "curl", &[through, &common[..]].concat());
                assert_eq!(output.stdout, b"451", "curl {through:?}: {}", lab::said(&output));
            }
        }
    }
    assert_eq!(scene.world.arrived(REFUSED[0]), (0, 0));
}

#[test]
fn a01_an_answer_is_done_when_its_client_has_it() {
    const SIZE: usize = 60_000;
    let Some(lab) = lab("a01") else { return };
    let mut scene = Scene::start(&lab, "tproxy", "");
    for (way, more) in WAYS.into_iter().flat_map(|way| [(way, ""), (way, "Connection: close\r\n")])
    {
        let before = settled(&scene);
        let get = request(way, &format!("GET /{SIZE}"), SITE.fine, PORT, more);
        let to = if way.is_captured() { at(SITE.address, PORT) } else { PROXY.to_owned() };
        let mut steps = requests::opening(way, &SITE);
        steps.push(json!({"hex": hex(&get)}));
        // A client with little room, which has read nothing of the answer yet.
        let held = scene.client.ask(&json!({"do": "keep-narrow", "to": to, "steps": steps}));
        assert_eq!(held["kept"], 1, "{way:?}: {held}");
        wait_until("the gateway's kernel has the answer", || {
            // With its FIN behind the answer, where the connection ends with it.
            let open = "ss -tnH state connected '( sport = :3128 or sport = :8081 )'";
            let open = scene.in_the_gateway(open);
            let queued = open.lines().filter_map(|line| line.split_whitespace().nth(2));
            queued.map(|q| q.parse::<usize>().unwrap()).any(|q| q > 10_000).then_some(())
        });
        assert_eq!(scene.lines().len(), before, "{way:?}: it has not arrived");
        let end = scene.client.ask(&json!({"do": "say-on", "to": to, "shut": true}));
        let text = unhex(end["received"].as_str().unwrap());
        let at = text.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(text.len() - at, SIZE, "{way:?}: {}", end["end"]);
        let line = line_behind(&scene, before);
        assert_eq!(line["end"], "done", "{way:?}: {line}");
        assert_eq!(line["bytes_down"], text.len(), "{way:?}: {line}");
    }
    // A client that goes away with a part of its answer.
    for way in WAYS {
        let before = settled(&scene);
        let get = request(way, "GET /4000000", SITE.fine, PORT, "");
        let to = if way.is_captured() { at(SITE.address, PORT) } else { PROXY.to_owned() };
        let mut steps = requests::opening(way, &SITE);
        steps.push(json!({"hex": hex(&get)}));
        scene.client.ask(&json!({"do": "keep-narrow", "to": to, "steps": steps}));
        scene.client.ask(&json!({"do": "let-go", "to": to, "reset": true}));
        let line = line_behind(&scene, before);
        assert_eq!(line["end"], "client-reset", "{way:?}: {line}");
        assert!(line["bytes_down"].as_u64().unwrap() < 4_000_000, "{way:?}: {line}");
    }
}

/// What a listener is set to, what a client does, and how that ends.
const TIMES: [(&str, &str, &str); 5] = [
    ("peek_timeout = \"1s\"\n", "half a head", "bad-request or refused"),
    ("idle_timeout = \"1s\"\n", "an answer that does not come", "idle"),
    ("half_closed_timeout = \"1s\"\n", "a client that left", "idle"),
    ("lifetime = \"2s\"\n", "an answer without end", "lifetime"),
    ("idle_timeout = \"1s\"\n", "nothing more", "done"),
];

#[test]
fn a04_every_time_out_of_a_listener_holds_in_every_protocol() {
    for (setting, what, wanted) in TIMES {
        let Some(lab) = lab("a04") else { return };
        // The scene sets this one itself.
        let setting = setting.replace("peek_timeout = \"1s\"\n", "");
        let mut scene = Scene::start(&lab, "tproxy", &setting);
        for way in WAYS {
            let before = settled(&scene);
            let line = match what {
                "an answer without end" => "GET /drip",
                "nothing more" => "GET /",
                _ => "GET /hang",
            };
            let mut bytes = request(way, line, SITE.fine, PORT, "");
            if what == "half a head" {
                bytes.truncate(bytes.len() - 3);
            }
            let mut steps = requests::opening(way, &SITE);
            steps.push(json!({"hex": hex(&bytes)}));
            let to = if way.is_captured() { at(SITE.address, PORT) } else { PROXY.to_owned() };
            let shut = what == "a client that left";
            let ask = json!({"do": "converse", "to": to, "steps": steps, "shut": shut});
            let end = scene.client.ask(&ask);
            assert_ne!(end["end"], "silence", "{setting}, {what}, {way:?}: {end}");
            let line = line_behind(&scene, before);
            let end = line["end"].as_str().unwrap();
            let is_wanted = wanted.split(" or ").any(|wanted| wanted == end);
            assert!(is_wanted, "{setting}, {what}, {way:?}: {line}");
            // The other side is let go as well.
            wait_until("no connection is left", || {
                let left = scene.in_the_gateway("ss -tnH state established dport = :8081");
                left.is_empty().then_some(())
            });
        }
    }
}

#[test]
fn a04_a_client_that_leaves_while_it_waits_gives_its_place_back() {
    let Some(lab) = lab("a04 left") else { return };
    let more = "half_closed_timeout = \"1s\"\nmax_connections_per_client = 2\n";
    let mut scene = Scene::start(&lab, "tproxy", more);
    for way in WAYS {
        let get = request(way, "GET /hang", SITE.fine, PORT, "");
        let to = if way.is_captured() { at(SITE.address, PORT) } else { PROXY.to_owned() };
        let mut steps = requests::opening(way, &SITE);
        steps.push(json!({"hex": hex(&get)}));
        for reset in [true, false] {
            for _ in 0..2 {
                let open = json!({"do": "keep-narrow", "to": to, "steps": steps});
                scene.client.ask(&open);
            }
            scene.client.ask(&json!({"do": "let-go", "to": to, "reset": reset}));
            wait_until(&format!("{way:?}: they are let go"), || {
                scene.gateway.shows("schengate_connections_active 0").then_some(())
            });
        }
        let answer = ask(&mut scene, way, "GET /", "");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{way:?}: {answer}");
    }
}
