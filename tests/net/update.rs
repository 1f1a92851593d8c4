//! `schengate data update` against a server of its own, in a laboratory of namespaces: what is taken
//! up, what is refused, and that nobody is dialled whom the policy does not permit.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::lab::role::{self, hex, unhex};
use crate::lab::{self, Helper, Lab, NAME_SERVER, PERMITTED, REFUSED};
use crate::mmdb;

/// Where the mirror listens, on a permitted and on a refused address.
const PORT: u16 = 8443;

/// What the mirror answers, by path, and what it was asked.
#[derive(Default)]
struct Shelf {
    answers: HashMap<String, Value>,
    heads: Vec<String>,
}

/// A server of files over TLS. A question of the test puts an answer under a path, or asks what was
/// requested.
pub(crate) fn mirror() {
    let names = ["permitted.example", "refused.example", "mixed.example"].map(str::to_owned);
    let own = rcgen::generate_simple_self_signed(names.to_vec()).unwrap();
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
            .unwrap();
    let (config, shelf) = (Arc::new(config), Arc::new(Mutex::new(Shelf::default())));
    for address in [PERMITTED, REFUSED].concat() {
        let listener = TcpListener::bind((address, PORT)).unwrap();
        let (config, shelf) = (Arc::clone(&config), Arc::clone(&shelf));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (config, shelf) = (Arc::clone(&config), Arc::clone(&shelf));
                // A client may go away at any moment.
                thread::spawn(move || drop(hand_out(stream.unwrap(), config, &shelf)));
            }
        });
    }
    let pem = own.cert.pem();
    role::serve(move |question| {
        let mut shelf = shelf.lock().unwrap();
        if let Some(path) = question["path"].as_str() {
            shelf.answers.insert(path.to_owned(), question.clone());
        }
        json!({"ca": pem, "heads": std::mem::take(&mut shelf.heads)})
    });
}

fn hand_out(stream: TcpStream, config: Arc<ServerConfig>, shelf: &Mutex<Shelf>) -> io::Result<()> {
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer = {
        let mut shelf = shelf.lock().unwrap();
        shelf.heads.push(head);
        shelf.answers.get(&path).cloned().unwrap_or_else(|| json!({"status": 404}))
    };
    let (status, body) = (&answer["status"], unhex(answer["body"].as_str().unwrap_or_default()));
    write!(stream, "HTTP/1.1 {status} -\r\nConnection: close\r\n")?;
    for (name, value) in answer["headers"].as_object().into_iter().flatten() {
        write!(stream, "{name}: {}\r\n", value.as_str().unwrap())?;
    }
    let unsaid = answer["unsaid"] == true || answer["endless"] == true;
    if !unsaid {
        let more = answer["missing"].as_u64().unwrap_or_default();
        write!(stream, "Content-Length: {}\r\n", body.len() as u64 + more)?;
    }
    stream.write_all(b"\r\n")?;
    stream.write_all(&body)?;
    if answer["endless"] == true {
        loop {
            stream.write_all(&[b'#'; 16_384])?;
        }
    }
    if answer["unsaid"] != true {
        stream.conn.send_close_notify();
    }
    stream.flush()
}

/// The laboratory, its mirror and its name server.
struct Scene {
    lab: Lab,
    mirror: Helper,
    world: Helper,
}

impl Scene {
    fn new(test: &str) -> Option<Self> {
        let lab = lab::lab(test)?;
        let (mut mirror, world) = (lab.world.helper("mirror"), lab.world.helper("world"));
        let told = mirror.ask(&json!({}));
        lab.write("ca.pem", told["ca"].as_str().unwrap());
        Some(Self { lab, mirror, world })
    }

    /// Puts an answer under a path.
    fn put(&mut self, path: &str, body: &[u8], more: Value) {
        let mut answer = json!({"path": path, "status": 200, "body": hex(body), "headers": {}});
        answer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.mirror.ask(&answer);
    }

    /// Heads of the requests since this was asked last.
    fn heads(&mut self) -> Vec<String> {
        serde_json::from_value(self.mirror.ask(&json!({}))["heads"].take()).unwrap()
    }

    fn folder(&self) -> std::path::PathBuf {
        self.lab.write("anything", "").parent().unwrap().to_owned()
    }

    /// Runs the command under a policy with one source `c`, and gives its end and its one report.
    fn update(&self, source: &str, more: &[&str]) -> (i32, Value) {
        let policy = policy(source);
        let config = self.lab.write("policy.toml", &policy);
        let output = self.run(&config, &[&["--json"], more].concat());
        let told = serde_json::from_slice::<Value>(&output.stdout);
        let told = told.unwrap_or_else(|e| panic!("{e}: {}", lab::said(&output)));
        (output.status.code().unwrap(), told[0].clone())
    }

    fn run(&self, config: &Path, more: &[&str]) -> Output {
        self.command(config, more).output().unwrap()
    }

    fn command(&self, config: &Path, more: &[&str]) -> Command {
        let mut command = self.lab.gateway.command("timeout");
        command.args(["60", env!("CARGO_BIN_EXE_schengate"), "data", "update", "--config"]);
        command.arg(config).args(more);
        command
    }

    /// Writes the credential, for the eyes of these only.
    fn key(&self, text: &str, mode: u32) {
        let path = self.lab.write("key", text);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Every answer that the command has under a policy with this source: in words, as JSON, and what
    /// it would do.
    fn all_answers(&self, source: &str) -> Vec<Output> {
        let config = self.lab.write("policy.toml", &policy(source));
        self.answers(&config)
    }

    /// The same of a policy as it stands.
    fn answers(&self, config: &Path) -> Vec<Output> {
        let forms: [&[&str]; 4] = [&["--dry-run"], &["--dry-run", "--json"], &[], &["--json"]];
        forms.map(|more| self.run(config, more)).into()
    }

    /// Looks for [`KEY`], in each way in which it is sent, in every answer under a policy.
    fn keeps_the_key(&self, config: &Path) {
        let pair = STANDARD.encode(format!("12:{KEY}"));
        let said = self.answers(config);
        assert!(said.iter().all(|output| output.status.success()), "{}", lab::said(&said[2]));
        self.search(&said, &["s3cr3t", &pair, &STANDARD.encode(KEY)]);
    }

    fn forget(&self) {
        for name in ["c.csv", ".c.csv.update"] {
            fs::remove_file(self.folder().join(name)).ok();
        }
    }

    /// Looks for texts in what was said, and in every file beside the policy and the credential.
    fn search(&self, said: &[Output], texts: &[&str]) {
        let holds = |bytes: &[u8]| {
            let all = String::from_utf8_lossy(bytes);
            texts.iter().find(|text| all.contains(**text)).map(|text| format!("{text} in {all}"))
        };
        for output in said {
            assert_eq!(holds(&output.stdout).or_else(|| holds(&output.stderr)), None);
        }
        for entry in fs::read_dir(self.folder()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && !path.ends_with("policy.toml") && !path.ends_with("key") {
                assert_eq!(holds(&fs::read(&path).unwrap()), None, "{}", path.display());
            }
        }
    }

    fn table(&self) -> String {
        fs::read_to_string(self.folder().join("c.csv")).unwrap_or_default()
    }

    /// Whether anything lies beside the table that should not.
    fn litter(&self) -> bool {
        self.folder().join(".c.csv.new").exists()
    }
}

fn policy(source: &str) -> String {
    let ([p4, p6], [r4, r6]) = (PERMITTED, REFUSED);
    format!(
        "schema = 1
[policy]
permit = ['FR']
[names]
resolvers = ['{NAME_SERVER}:53']
[[place]]
to = ['{p4}/32', '{p6}/128']
location = ['FR']
reason = 'the permitted side'
[[place]]
to = ['203.0.113.0/24', '{r6}/128']
location = ['US']
reason = 'the refused side, {r4} among it'
[data]
directory = '.'
country = ['c.csv']
[data.update]
ca = 'ca.pem'
timeout = '20s'
max_mib = 1
[[data.update.source]]
name = 'c'
file = 'c.csv'
{source}"
    )
}

fn at(path: &str) -> String {
    format!("url = 'https://permitted.example:{PORT}{path}'\n")
}

/// A table of this many addresses of France.
fn france(addresses: u8) -> String {
    format!("192.0.2.0,192.0.2.{},FR\n", addresses - 1)
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn dated(day: &str) -> Value {
    json!({"headers": {"Last-Modified": format!("{day} 00:00:00 GMT"), "ETag": "\"v1\""}})
}

#[test]
fn a_table_is_fetched_once_and_again_only_where_it_changed() {
    let Some(mut scene) = Scene::new("data update") else { return };
    scene.put("/c.csv", france(100).as_bytes(), dated("Mon, 01 Jun 2026"));
    let (status, planned) = scene.update(&at("/c.csv"), &["--dry-run"]);
    assert_eq!((status, planned["result"].as_str()), (0, Some("would-fetch")), "{planned}");
    assert_eq!((scene.heads().len(), scene.table()), (0, String::new()), "a dry run dials nobody");
    let (status, report) = scene.update(&at("/c.csv"), &[]);
    assert_eq!((status, report["result"].as_str()), (0, Some("updated")), "{report}");
    assert_eq!(report["date"], "2026-06-01T00:00:00Z", "{report}");
    assert_eq!((&report["rows"], &report["verdict"]), (&json!(1), &json!("allow")));
    assert_eq!(report["digest"], sha256(france(100).as_bytes()));
    assert_eq!(scene.table(), france(100));
    let head = scene.heads().remove(0);
    assert!(head.contains("host: permitted.example:8443") && !head.contains("if-none-match"));
    // The server says that nothing changed.
    scene.put("/c.csv", b"", json!({"status": 304}));
    let (status, report) = scene.update(&at("/c.csv"), &[]);
    assert_eq!((status, report["result"].as_str()), (0, Some("unchanged")), "{report}");
    assert!(scene.heads().remove(0).contains("if-none-match: \"v1\""));
    // A file that was changed by hand is fetched whole.
    scene.lab.write("c.csv", &france(99));
    scene.put("/c.csv", france(98).as_bytes(), dated("Tue, 24 Nov 2026"));
    // Its date is that of the file, which is now; a later one is needed.
    let touched = fs::File::options().append(true).open(scene.folder().join("c.csv")).unwrap();
    touched
        .set_modified("2026-07-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().into())
        .unwrap();
    let (status, report) = scene.update(&at("/c.csv"), &["c"]);
    assert_eq!((status, report["result"].as_str()), (0, Some("updated")), "{report}");
    assert!(!scene.heads().remove(0).contains("if-none-match"));
    assert_eq!(scene.table(), france(98));
    let unknown = scene.run(&scene.folder().join("policy.toml"), &["other"]);
    assert_eq!(unknown.status.code(), Some(2), "{}", lab::said(&unknown));
    assert!(!scene.litter());
}

#[test]
fn what_is_not_to_be_believed_is_refused_and_the_table_there_stays() {
    let Some(mut scene) = Scene::new("data update, refusals") else { return };
    let good = france(100);
    scene.put("/c.csv", good.as_bytes(), dated("Mon, 01 Jun 2026"));
    assert_eq!(scene.update(&at("/c.csv"), &[]).0, 0);
    let place = at("/d.csv");
    let pinned = format!("{place}sha256 = '{}'\n", sha256(good.as_bytes()));
    let listed = format!("{place}sha256_url = 'https://permitted.example:{PORT}/sums'\n");
    let lists =
        format!("{}  other.csv\n{}  d.csv\n", "0".repeat(64), sha256(france(97).as_bytes()));
    scene.put("/sums", lists.as_bytes(), json!({}));
    let new = dated("Mon, 01 Jun 2026")["headers"].take();
    let cut = "192.0.2.0,192.0.2.99,FR\n192.0.3.0,192.0.3.";
    for (body, answer, source, status, why) in [
        (france(99), json!({"headers": new}), &listed, 1, "has the digest"),
        (france(99), json!({"missing": 9}), &place, 2, "broke off"),
        (france(99), json!({"unsaid": true}), &place, 2, "broke off"),
        (cut.to_owned(), json!({}), &place, 1, "row 2: has 2 columns"),
        (String::new(), json!({}), &place, 1, "is empty"),
        (france(79), json!({}), &place, 1, "lost more than 20%"),
        (france(99), dated("Sun, 31 May 2026"), &place, 1, "older than the one in use"),
        (String::new(), json!({"endless": true}), &place, 1, "is longer than 1048576 bytes"),
        (String::new(), json!({"missing": 2 << 20}), &place, 1, "is longer than 1048576 bytes"),
        (String::new(), json!({"status": 503}), &place, 2, "answers with status 503"),
        (String::new(), json!({"status": 304}), &place, 2, "answers with status 304"),
    ] {
        scene.put("/d.csv", body.as_bytes(), answer.clone());
        let (ended, report) = scene.update(source, &[]);
        assert_eq!(ended, status, "{answer} {report}");
        assert!(report["what"].as_str().unwrap().contains(why), "{answer} {report}");
        assert_eq!(report["result"], if status == 1 { "refused" } else { "failed" });
        assert_eq!(scene.table(), good, "{answer}");
        assert!(!scene.litter(), "{answer}");
    }
    scene.heads();
    let (status, report) = scene.update(&pinned, &[]);
    assert_eq!((status, report["result"].as_str()), (0, Some("unchanged")), "{report}");
    assert_eq!(scene.heads().len(), 0, "what is there already is not asked for");
    scene.put("/d.csv", france(97).as_bytes(), json!({}));
    let (status, report) = scene.update(&listed, &[]);
    assert_eq!((status, report["result"].as_str()), (0, Some("updated")), "{report}");
}

#[test]
fn only_the_signature_of_the_key_lets_a_file_in() {
    let Some(mut scene) = Scene::new("data update, signatures") else { return };
    let key = |seed: u8| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let (own, stranger) = (key(1), key(2));
    let public = STANDARD.encode(own.public_key().as_ref());
    let source = format!("{}key = '{public}'\n", at("/c.csv"));
    let body = france(100);
    scene.put("/c.csv", body.as_bytes(), json!({}));
    let unsigned = scene.update(&source, &[]);
    assert_eq!(unsigned.0, 2, "{}", unsigned.1);
    for (signature, status) in [
        (stranger.sign(body.as_bytes()).as_ref().to_vec(), 1),
        (own.sign(france(99).as_bytes()).as_ref().to_vec(), 1),
        (b"x".to_vec(), 1),
        (STANDARD.encode(own.sign(body.as_bytes()).as_ref()).into_bytes(), 0),
    ] {
        scene.put("/c.csv.sig", &signature, json!({}));
        let (ended, report) = scene.update(&source, &[]);
        assert_eq!(ended, status, "{report}");
        assert_eq!(scene.table() == body, status == 0);
    }
    // The 64 bytes themselves, as `openssl pkeyutl -sign -rawin` writes them.
    let newer = france(101);
    scene.put("/c.csv", newer.as_bytes(), json!({}));
    scene.put("/c.csv.sig", own.sign(newer.as_bytes()).as_ref(), json!({}));
    assert_eq!(scene.update(&source, &[]).0, 0);
    assert_eq!(scene.table(), newer);
}

#[test]
fn nobody_is_dialled_whom_the_policy_refuses_and_redirects_are_judged_again() {
    let Some(mut scene) = Scene::new("data update, destinations") else { return };
    let to = |location: &str| json!({"status": 302, "headers": {"Location": location}});
    scene.put("/c.csv", france(100).as_bytes(), json!({}));
    scene.put("/there", b"", to("/c.csv"));
    scene.put("/abroad", b"", to(&format!("https://refused.example:{PORT}/c.csv")));
    scene.put("/plain", b"", to(&format!("http://permitted.example:{PORT}/c.csv")));
    scene.put("/round", b"", to("/round"));
    scene.put("/user", b"", to(&format!("https://me@permitted.example:{PORT}/c.csv")));
    scene.put("/nowhere", b"", json!({"status": 302}));
    let refused = format!("url = 'https://refused.example:{PORT}/c.csv'\n");
    let explain =
        "`schengate explain --to 203.0.113.7:8443 --host refused.example` shows each step";
    for (source, status, why) in [
        (refused.clone(), 1, "outside: "),
        (refused.clone(), 1, explain),
        (at("/abroad"), 1, "outside: "),
        (at("/plain"), 1, "is not https"),
        (at("/user"), 1, "holds a user"),
        (at("/round"), 1, "is one too many"),
        (at("/nowhere"), 2, "status 302"),
        ("url = 'https://nobody.example/c.csv'\n".to_owned(), 2, "has no address"),
        ("url = 'https://meta.example/c.csv'\n".to_owned(), 1, "guard: "),
        ("url = 'https://allowed.example/c.csv'\n".to_owned(), 1, "outside: "),
    ] {
        let (ended, report) = scene.update(&source, &[]);
        assert_eq!(ended, status, "{source} {report}");
        assert!(report["what"].as_str().unwrap().contains(why), "{source} {report}");
        assert_eq!(scene.table(), "", "{source}");
    }
    for address in REFUSED {
        assert_eq!(scene.world.arrived(address), (0, 0), "a byte or connection to {address}");
    }
    // Of a name with addresses on both sides, the permitted one is dialled.
    let mixed = format!("url = 'https://mixed.example:{PORT}/c.csv'\n");
    let (status, report) = scene.update(&mixed, &["--dry-run"]);
    assert_eq!((status, report["address"].as_str()), (0, Some("198.51.100.7:8443")), "{report}");
    let (status, report) = scene.update(&mixed, &[]);
    assert_eq!((status, report["result"].as_str()), (0, Some("updated")), "{report}");
    let (status, report) = scene.update(&at("/there"), &[]);
    assert_eq!((status, report["result"].as_str()), (0, Some("unchanged")), "{report}");
    // A certificate that nobody vouches for.
    scene.lab.write("ca.pem", &rcgen::generate_simple_self_signed(vec![]).unwrap().cert.pem());
    let (status, report) = scene.update(&at("/c.csv"), &[]);
    assert_eq!(status, 2, "{report}");
    assert!(report["what"].as_str().unwrap().contains("certificate"), "{report}");
}

/// A credential with what has to be escaped in a URL, and in lower case, as the mirror keeps heads.
const KEY: &str = "s3cr3t/k3y+0";
const KEY_IN_URL: &str = "s3cr3t%2fk3y%2b0";

#[test]
fn a_credential_reaches_its_server_and_is_shown_nowhere() {
    let Some(mut scene) = Scene::new("data update, credentials") else { return };
    let pair = STANDARD.encode(format!("12:{KEY}"));
    let basic = format!("authorization: basic {}", pair.to_lowercase());
    let own = at("/c.csv");
    let in_url = at("/t/{credential}/c.csv?k={credential}&edition=a");
    let in_url_asked = format!("/t/{KEY_IN_URL}/c.csv?k={KEY_IN_URL}&edition=a");
    let bearer = format!("authorization: bearer {KEY}");
    let pair_in_file = format!("12:{KEY}");
    let encoded = STANDARD.encode(KEY);
    let texts = ["s3cr3t", pair.as_str(), encoded.as_str()];
    for (source, key, path, sent) in [
        (format!("{own}user = '12'\n"), KEY, "/c.csv", basic.as_str()),
        (format!("{own}auth = 'basic'\n"), &pair_in_file, "/c.csv", &basic),
        (own.clone(), KEY, "/c.csv", &bearer),
        (format!("{own}header = 'X-Api-Key'\n"), KEY, "/c.csv", &format!("x-api-key: {KEY}")),
        (in_url, KEY, &in_url_asked, &format!("get {in_url_asked} http")),
    ] {
        let source = format!("{source}credential_file = 'key'\n");
        scene.key(&format!("{key}\n"), 0o600);
        scene.put(path, france(100).as_bytes(), dated("Mon, 01 Jun 2026"));
        let said = scene.all_answers(&source);
        assert_eq!(scene.table(), france(100), "{source} {}", lab::said(&said[2]));
        let heads = scene.heads();
        assert_eq!(heads.len(), 2, "a dry run dials nobody");
        assert!(heads[0].contains(sent), "{source} {heads:?}");
        scene.search(&said, &texts);
        // What the server makes of it: a refusal, itself in a row, in a place of its own and elsewhere.
        let place = format!("/else?k={key}");
        let answers = [
            (json!({"status": 401}), 2),
            (json!({"status": 302, "headers": {"Location": place}}), 2),
            (json!({"status": 302, "headers": {"Location": format!("http://a.example/{key}")}}), 1),
            (json!({"status": 302, "headers": {"Location": format!("https://[{key}")}}), 1),
            (
                json!({"status": 302, "headers": {"Location":
                format!("https://mixed.example:{PORT}/c.csv?k={KEY}")}}),
                1,
            ),
            (json!({"headers": {"ETag": "\"2\""}}), 1),
        ];
        // Each of them for the first form, and for the others those that show most.
        let first = if sent == basic && key == KEY { 0 } else { 4 };
        for (answer, status) in answers.into_iter().skip(first) {
            let row = format!("192.0.2.0,192.0.2.9,{key}\n");
            scene.put(path, row.as_bytes(), answer.clone());
            let config = scene.lab.write("policy.toml", &policy(&source));
            let said = [&[][..], &["--json"]].map(|more| scene.run(&config, more));
            assert_eq!(said[0].status.code(), Some(status), "{answer} {}", lab::said(&said[0]));
            scene.search(&said, &texts);
        }
        scene.forget();
        scene.heads();
    }
}

#[test]
fn a_redirect_to_another_server_takes_no_credential_along() {
    let Some(mut scene) = Scene::new("data update, credentials elsewhere") else { return };
    let to = |location: &str| json!({"status": 302, "headers": {"Location": location}});
    scene.key(KEY, 0o600);
    scene.put("/c.csv", france(100).as_bytes(), dated("Mon, 01 Jun 2026"));
    scene.put("/same", b"", to("/c.csv"));
    scene.put("/other", b"", to(&format!("https://mixed.example:{PORT}/c.csv")));
    scene.put("/away", b"", to(&format!("https://mixed.example:{PORT}/back")));
    scene.put("/back", b"", to(&format!("https://permitted.example:{PORT}/c.csv")));
    scene.put("/sums", sha256(france(100).as_bytes()).as_bytes(), json!({}));
    for (source, told) in [
        (at("/same"), vec![true, true]),
        (at("/other"), vec![true, false]),
        // Whoever was led away is not told again, even where the way leads back.
        (at("/away"), vec![true, false, false]),
        (
            format!("{}sha256_url = 'https://permitted.example:{PORT}/sums'", at("/c.csv")),
            vec![true, true],
        ),
        (
            format!("{}sha256_url = 'https://mixed.example:{PORT}/sums'", at("/c.csv")),
            vec![false, true],
        ),
    ] {
        scene.forget();
        let (status, report) = scene.update(&format!("{source}\ncredential_file = 'key'"), &[]);
        assert_eq!((status, report["result"].as_str()), (0, Some("updated")), "{source} {report}");
        let heads = scene.heads();
        let got: Vec<_> = heads.iter().map(|head| head.contains("authorization")).collect();
        assert_eq!(got, told, "{source} {heads:?}");
    }
}

#[test]
fn a_credential_that_others_may_read_is_not_sent() {
    let Some(mut scene) = Scene::new("data update, a credential of everybody") else { return };
    scene.put("/c.csv", france(100).as_bytes(), dated("Mon, 01 Jun 2026"));
    let source = format!("{}credential_file = 'key'\n", at("/c.csv"));
    let (status, report) = scene.update(&source, &[]);
    assert_eq!((status, report["result"].as_str()), (2, Some("failed")), "{report}");
    for (mode, ended, result) in
        [(0o644, 1, "refused"), (0o602, 1, "refused"), (0o640, 0, "updated")]
    {
        scene.key(KEY, mode);
        let (status, report) = scene.update(&source, &[]);
        assert_eq!((status, report["result"].as_str()), (ended, Some(result)), "{report}");
        assert_eq!(scene.heads().len(), usize::from(ended == 0), "{mode:o}");
    }
    // As systemd hands it over.
    scene.forget();
    let config = format!("{}credential = 'key'\n", at("/c.csv"));
    let config = scene.lab.write("policy.toml", &policy(&config));
    let unset = scene.command(&config, &[]).env_remove("CREDENTIALS_DIRECTORY").output().unwrap();
    assert_eq!(unset.status.code(), Some(2), "{}", lab::said(&unset));
    let folder = scene.folder();
    let named = scene.command(&config, &[]).env("CREDENTIALS_DIRECTORY", folder).output().unwrap();
    assert_eq!(named.status.code(), Some(0), "{}", lab::said(&named));
    assert!(scene.heads().remove(0).contains(&format!("authorization: bearer {KEY}")));
}

#[test]
fn a_token_that_somebody_wrote_into_the_url_is_not_shown_either() {
    let Some(mut scene) = Scene::new("data update, a token in the URL") else { return };
    let path = "/c.csv?license_key=s3cr3t&suffix=csv";
    scene.put(path, france(100).as_bytes(), dated("Mon, 01 Jun 2026"));
    let mut said = scene.all_answers(&at(path));
    assert_eq!(scene.table(), france(100));
    assert!(lab::said(&said[0]).contains("/c.csv?license_key=***&suffix=***"));
    scene.put(path, b"", json!({"status": 503}));
    said.extend(scene.all_answers(&at(path)));
    // Nor in what is said of a policy that does not load.
    for url in ["http://me.example/", "https://me:s3cr3t@me.example/", "https://a.example/{s3cr3t}"]
    {
        said.extend(scene.all_answers(&format!("url = '{url}?token=s3cr3t'\n")));
    }
    let check = Command::new(env!("CARGO_BIN_EXE_schengate"))
        .args(["check", "--config"])
        .arg(scene.lab.write("policy.toml", &policy(&at(path))))
        .output()
        .unwrap();
    assert!(lab::said(&check).contains("seems to hold a credential"), "{}", lab::said(&check));
    said.push(check);
    scene.search(&said, &["s3cr3t"]);
    // Another edition behind another query is not the file that is there.
    let other = "/c.csv?license_key=s3cr3t&suffix=other";
    scene.put(other, france(101).as_bytes(), dated("Tue, 02 Jun 2026"));
    scene.heads();
    let (status, report) = scene.update(&at(other), &[]);
    assert_eq!((status, report["result"].as_str()), (0, Some("updated")), "{report}");
    assert!(!scene.heads().remove(0).contains("if-none-match"));
}

#[test]
fn a_dated_url_is_asked_for_today_and_then_for_the_month_before() {
    let Some(mut scene) = Scene::new("data update, dated URLs") else { return };
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let path = |months: i64| {
        let month = today.checked_sub(jiff::Span::new().months(months)).unwrap();
        format!("/c-{:04}-{:02}.csv", month.year(), month.month())
    };
    let source = at("/c-{yyyy}-{mm}.csv");
    scene.put(&path(2), france(90).as_bytes(), dated("Mon, 01 Jun 2026"));
    let (status, report) = scene.update(&source, &[]);
    assert_eq!(status, 2, "{report}");
    assert!(report["what"].as_str().unwrap().contains(&path(0)), "{report}");
    assert_eq!(scene.heads().len(), 2, "today's, and the month before");
    scene.put(&path(1), france(91).as_bytes(), dated("Tue, 02 Jun 2026"));
    let (status, report) = scene.update(&source, &[]);
    assert_eq!((status, scene.table()), (0, france(91)), "{report}");
    assert!(report["url"].as_str().unwrap().ends_with(&path(1)), "{report}");
    scene.put(&path(0), france(92).as_bytes(), dated("Wed, 03 Jun 2026"));
    let (status, report) = scene.update(&source, &[]);
    assert_eq!((status, scene.table()), (0, france(92)), "{report}");
    scene.forget();
    scene.key(KEY, 0o600);
    let source = format!("{source}credential_file = 'key'\n");
    scene.keeps_the_key(&scene.lab.write("policy.toml", &policy(&source)));
}

/// A gzipped tar archive of these files, as MaxMind hands its tables out.
fn tar_gz(members: &[(&str, &[u8])]) -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

#[test]
fn an_archive_of_maxmind_is_taken_with_its_account_and_key() {
    let Some(mut scene) = Scene::new("data update, an archive") else { return };
    let table = mmdb::mmdb(&[("192.0.2.0/24", json!({"country": {"iso_code": "FR"}}))], mmdb::JUNE);
    let papers = b"Copyright".as_slice();
    let body = tar_gz(&[("GeoLite2_20260601/COPYRIGHT.txt", papers), ("G_1/G.mmdb", &table)]);
    let path = "/geoip/databases/country/download?suffix=tar.gz";
    let sums = format!("{}  GeoLite2_20260601.tar.gz\n", sha256(&body));
    scene.key(KEY, 0o600);
    scene.put(path, &body, json!({}));
    scene.put(&format!("{path}.sha256"), sums.as_bytes(), json!({}));
    let source = format!(
        "{}user = '12'\ncredential_file = 'key'\n\
         sha256_url = 'https://permitted.example:{PORT}{path}.sha256'\n",
        at(path)
    );
    let (status, report) = scene.update(&source, &[]);
    assert_eq!((status, report["result"].as_str()), (0, Some("updated")), "{report}");
    assert_eq!((&report["rows"], &report["date"]), (&json!(1), &json!("2026-06-01T00:00:00Z")));
    assert!(scene.heads().iter().all(|head| head.contains("authorization: basic ")));
    let (_, report) = scene.update(&source, &[]);
    assert_eq!(report["result"], "unchanged", "{report}");
    scene.forget();
    scene.keeps_the_key(&scene.lab.write("policy.toml", &policy(&source)));
    // A tar is told as a tar, packed or not, and what it holds is looked at.
    let two = tar_gz(&[("a.mmdb", &table), ("b.mmdb", &table)]);
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(two.as_slice()).read_to_end(&mut plain).unwrap();
    for body in [two, plain] {
        scene.put("/two", &body, json!({}));
        let (status, report) = scene.update(&at("/two"), &[]);
        assert_eq!(status, 1, "{report}");
        let what = report["what"].as_str().unwrap();
        assert!(what.contains("is a tar archive of several tables (a.mmdb, b.mmdb)"), "{what}");
    }
}

#[test]
fn a_geofeed_is_taken_and_says_where() {
    let Some(mut scene) = Scene::new("data update, a geofeed") else { return };
    let feed = "# prefix,country,region,city,postal\n213.186.33.0/24,NL,NL-NH,Amsterdam,\n\
                2001:db8::/32,,,,\n";
    scene.put("/feed.csv", feed.as_bytes(), dated("Mon, 01 Jun 2026"));
    scene.key(KEY, 0o600);
    let source = format!("{}credential_file = 'key'\n", at("/feed.csv"));
    let text = policy(&source).replace("country = ['c.csv']", "providers = ['c.csv']");
    let config = scene.lab.write("policy.toml", &text);
    scene.keeps_the_key(&config);
    assert!(scene.heads().iter().all(|head| head.contains(&format!("bearer {KEY}"))));
    scene.forget();
    let output = scene.run(&config, &["--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told[0]["result"], &told[0]["rows"]), (&json!("updated"), &json!(2)), "{told}");
    let explained = Command::new(env!("CARGO_BIN_EXE_schengate"))
        .args(["explain", "--json", "--to", "213.186.33.9", "--config"])
        .arg(config)
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&explained.stdout).unwrap();
    assert_eq!(answer["location"]["codes"], json!(["NL"]), "{answer}");
    assert_eq!(answer["location"]["source"], "c.csv", "{answer}");
}

#[test]
fn services_are_fetched_and_those_of_another_key_are_refused() {
    let Some(mut scene) = Scene::new("data update, services") else { return };
    let key = |seed: u8| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let signed = |seed: u8, row: &str| {
        let body = format!("service,endpoint,use,source,as_of\n{row}");
        let message = [b"schengate services 1\0".as_slice(), body.as_bytes()].concat();
        let signature = STANDARD.encode(key(seed).sign(&message).as_ref());
        format!("# schengate services 1 signed {signature}\n{body}").into_bytes()
    };
    scene.key(KEY, 0o600);
    let row = "own/app,app.example.eu,,https://example.eu/,2026-11-02\n";
    let rule = "[[rule]]\nname = 'app'\nservice = ['own/app']\naction = 'allow'\nbasis = 'b'\n";
    let text = |data: &str| {
        let text = policy(&format!("{}credential_file = 'key'\n", at("/services")));
        text.replace("country = ['c.csv']", &format!("services = ['c.csv', 'embedded']\n{data}"))
            + rule
    };
    let public = STANDARD.encode(key(1).public_key().as_ref());
    let config = scene.lab.write("policy.toml", &text(&format!("services_key = '{public}'")));
    let update = |scene: &Scene| {
        let output = scene.run(&config, &["--json"]);
        let told = serde_json::from_slice::<Value>(&output.stdout);
        told.unwrap_or_else(|e| panic!("{e}: {}", lab::said(&output)))[0].clone()
    };
    // The file that the rule hangs on is not there yet.
    scene.put("/services", &signed(1, row), json!({}));
    let report = update(&scene);
    assert_eq!((&report["result"], &report["rows"]), (&json!("updated"), &json!(1)), "{report}");
    let good = scene.table();
    let older = row.replace("2026-11-02", "2026-11-01");
    for (body, why) in [
        (signed(2, row), "is not signed by [data] services_key"),
        (row.as_bytes().to_vec(), "is not signed, and [data] services_key asks"),
        (signed(1, &older), "older than the one in use"),
        (signed(1, &row.replace("app.example.eu", "10.0.0.0/8")), "not the public address"),
    ] {
        scene.put("/services", &body, json!({}));
        let report = update(&scene);
        assert_eq!(report["result"], "refused", "{report}");
        assert!(report["what"].as_str().unwrap().contains(why), "{report}");
        assert_eq!(scene.table(), good, "the last good one stays");
    }
    // The list of Microsoft 365, as its web service gives it.
    scene.lab.write("policy.toml", &text("").replace("own/app", "microsoft-365/exchange/allow"));
    let list = r#"[{"id": 10, "serviceArea": "Exchange", "serviceAreaDisplayName": "Exchange Online",
        "urls": ["*.mail.protection.outlook.com"], "ips": ["40.92.0.0/15"], "tcpPorts": "25",
        "expressRoute": true, "category": "Allow", "required": true}]"#;
    scene.put("/services", list.as_bytes(), json!({}));
    fs::remove_file(scene.folder().join("c.csv")).unwrap();
    let report = update(&scene);
    assert_eq!((&report["result"], &report["rows"]), (&json!("updated"), &json!(2)), "{report}");
    let explained = Command::new(env!("CARGO_BIN_EXE_schengate"))
        .args(["explain", "--to", "40.92.0.9", "--host", "a.mail.protection.outlook.com"])
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    let said = lab::said(&explained);
    assert!(said.contains("service microsoft-365/exchange/allow (by c.csv of "), "{said}");
    scene.forget();
    scene.keeps_the_key(&config);
}

#[test]
fn a_running_gateway_takes_up_what_was_fetched() {
    let Some(mut scene) = Scene::new("data update, a gateway") else { return };
    scene.put("/c.csv", france(100).as_bytes(), dated("Mon, 01 Jun 2026"));
    assert_eq!(scene.update(&at("/c.csv"), &[]).0, 0);
    let gateway = scene.lab.start_gateway(&policy(&at("/c.csv")));
    let newer = json!({"path": "/c.csv", "status": 200, "body": hex(france(101).as_bytes()),
        "headers": {"Last-Modified": "Tue, 02 Jun 2026 00:00:00 GMT"}});
    scene.mirror.ask(&newer);
    // Not by `Scene::update`, which writes the policy anew: nothing but the table changes here.
    let updated = scene.run(&scene.folder().join("policy.toml"), &[]);
    assert_eq!(updated.status.code(), Some(0), "{}", lab::said(&updated));
    lab::wait_until("the table is taken up without a signal", || {
        let done = gateway.count("schengate_policy_reload_total{result=\"done\"}");
        (done > 0.0).then_some(())
    });
    assert_eq!(gateway.count("schengate_policy_reload_total{result=\"failed\"}"), 0.0);
}

#[test]
fn without_the_section_nothing_is_fetched_and_the_command_says_so() {
    let off =
        Command::new(env!("CARGO_BIN_EXE_schengate")).args(["data", "update"]).output().unwrap();
    assert_eq!(off.status.code(), Some(2));
    assert!(lab::said(&off).contains("names nothing to fetch"), "{}", lab::said(&off));
}
