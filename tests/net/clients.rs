//! Programs that people use, through the gateway: curl, openssl, ssh, an HTTP/3 client, a browser.
//! What is not installed is left out, and said; where CI installs it, that is a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::json;

use crate::lab::role::{self, GREETING};
use crate::lab::services::{SSH, UPGRADES};
use crate::lab::{self, Gateway, Lab, PERMITTED, REFUSED, at, has, lab, said, wait_until};

/// A rule that opens [`REFUSED`] for one name, and only where that name can be read.
const NAME_RULE: &str = "[policy.on]
unread = \"block\"

[[rule]]
name = \"one name\"
host = [\"allowed.example\"]
port = [443]
action = \"allow\"
reason = \"the name decides in this test\"
";

/// [`PERMITTED`] is in France, which is permitted; [`REFUSED`] is in the United States.
fn policy(peek_timeout: &str, more: &str) -> String {
    let (places, admin) = (lab::places(), lab::ADMIN);
    format!(
        "schema = 1
[policy]
mode = \"enforce\"
permit = [\"FR\"]

[names]
binding = \"trust\"

{places}[[listen]]
mode = \"tproxy\"
address = \"[::]:15001\"
peek_timeout = \"{peek_timeout}\"

[admin]
address = \"{admin}\"

{more}"
    )
}

/// A gateway at work, and what may be asked of it.
struct Scene<'lab> {
    lab: &'lab Lab,
    gateway: Gateway<'lab>,
}

impl<'lab> Scene<'lab> {
    fn start(lab: &'lab Lab, more: &str) -> Self {
        Self::waiting(lab, "500ms", more)
    }

    /// With another time for which a first byte is waited for where one is needed.
    fn waiting(lab: &'lab Lab, peek_timeout: &str, more: &str) -> Self {
        let [r4, r6] = REFUSED;
        let rules = lab.write(
            "watch.nft",
            &format!(
                "table inet watch {{
                    set foreign {{
                        type inet_proto . inet_service; flags dynamic; size 65535
                    }}
                    chain seen {{
                        type filter hook prerouting priority -300; policy accept;
                        ip daddr {r4} add @foreign {{ meta l4proto . th sport }}
                        ip6 daddr {r6} add @foreign {{ meta l4proto . th sport }}
                    }}
                }}"
            ),
        );
        lab.world.shell(&format!("nft -f {}", rules.display())).unwrap();
        let gateway = lab.start_gateway(&policy(peek_timeout, more));
        gateway.capture();
        Self { lab, gateway }
    }

    /// Flows that reached the refused side, told apart by their source ports: a last packet of one
    /// that was permitted before, still on its way, is no further flow.
    fn foreign(&self) -> usize {
        let text = self.lab.world.shell("nft list set inet watch foreign").unwrap();
        let elements = text.split_once("elements").map_or("", |(_, elements)| elements);
        elements.matches(" . ").count()
    }

    /// What a program of the client says, which no packet may leave for the refused side.
    fn refused(&self, program: &str, arguments: &[&str], input: &str) -> String {
        let before = self.foreign();
        let output = run(self.lab, program, arguments, input);
        assert_eq!(self.foreign(), before, "{program} {arguments:?}: {}", said(&output));
        said(&output)
    }
}

/// Runs a program of the client with `input` on its standard input, to its end.
fn run(lab: &Lab, program: &str, arguments: &[&str], input: &str) -> Output {
    let input = lab.write("input", input);
    let program = [&["60", program], arguments].concat();
    let mut command = lab.client.command("timeout");
    command.args(program).stdin(fs::File::open(input).unwrap()).output().unwrap()
}

/// A program of the world, ended on drop.
struct Server(Child);

impl Server {
    fn start(mut command: Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A key and a certificate for the names of these tests, in files.
fn identity(lab: &Lab) -> (PathBuf, PathBuf) {
    let names = ["allowed.example", "other.example"].map(str::to_owned).to_vec();
    let own = rcgen::generate_simple_self_signed(names).unwrap();
    let key = lab.write("key.pem", &own.signing_key.serialize_pem());
    (key, lab.write("certificate.pem", &own.cert.pem()))
}

/// A web server on both sides, HTTP/1.1 and HTTP/2 over TLS, whose pages are in `pages`.
fn nginx(lab: &Lab, more: &str) -> Server {
    let (key, certificate) = identity(lab);
    let directory = key.parent().unwrap().display().to_string();
    lab.write("greeting", GREETING);
    let listen: String = [PERMITTED, REFUSED]
        .concat()
        .iter()
        .map(|ip| format!("listen {} ssl http2;\n", at(ip, 443)))
        .collect();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {directory}/{what};\n"))
        .collect();
    let file = lab.write(
        "nginx.conf",
        &format!(
            "daemon off; master_process off; pid {directory}/nginx.pid;
            error_log {directory}/nginx-error.log;
            events {{ }}
            http {{
                access_log {directory}/nginx-access.log;
                {temporary}
                server {{
                    {listen}
                    ssl_certificate {certificate};
                    ssl_certificate_key {key};
                    root {directory};
                    index greeting;
                    default_type text/html;
                    {more}
                }}
            }}",
            certificate = certificate.display(),
            key = key.display(),
        ),
    );
    let mut command = lab.world.command("nginx");
    command.args(["-e", &format!("{directory}/nginx-start.log"), "-c"]).arg(file);
    let server = Server::start(command);
    let ask = ["-sk", "--max-time", "2", &format!("https://{}/", at(PERMITTED[0], 443))];
    wait_until("nginx answers", || {
        let output = lab.world.command("curl").args(ask).output().unwrap();
        output.status.success().then_some(())
    });
    server
}

#[test]
fn curl_speaks_http_1_and_2_where_its_name_is_allowed() {
    if !(has("curl") && has_server("nginx")) {
        return;
    }
    let Some(lab) = lab("curl and nginx") else { return };
    let _server = nginx(&lab, "");
    let scene = Scene::start(&lab, NAME_RULE);
    for (ip, (option, version)) in
        REFUSED.into_iter().flat_map(|ip| [("--http1.1", "1.1"), ("--http2", "2")].map(|v| (ip, v)))
    {
        let resolve = |name: &str| format!("{name}:443:{}", at(ip, 443).replace(":443", ""));
        let print =
            ["-sSk", "--max-time", "20", option, "-w", " over %{http_version}", "--resolve"];
        let url = [&resolve("allowed.example"), "https://allowed.example/"];
        let output = run(&lab, "curl", &[&print[..], &url].concat(), "");
        let page = String::from_utf8_lossy(&output.stdout);
        assert_eq!(page, format!("{GREETING} over {version}"), "{}", said(&output));
        let url = [&resolve("other.example"), "https://other.example/"];
        let told = scene.refused("curl", &[&print[..], &url].concat(), "");
        assert!(told.contains("access denied"), "{told}");
    }
}

/// Servers are where a user's PATH often does not lead.
fn has_server(program: &str) -> bool {
    Path::new("/usr/sbin").join(program).exists() || has(program)
}

#[test]
fn openssl_is_judged_by_its_name_in_every_version_that_it_speaks() {
    if !has("openssl") {
        return;
    }
    let Some(lab) = lab("openssl versions") else { return };
    let mut world = lab.world.helper("world");
    let scene = Scene::start(&lab, NAME_RULE);
    for ip in REFUSED {
        for (version, answers) in
            [("-tls1_3", true), ("-tls1_2", true), ("-tls1_1", false), ("-tls1", false)]
        {
            let to = at(ip, 443);
            // The lowest level of security: OpenSSL sends no old hello otherwise.
            let arguments = |name| {
                [
                    "s_client",
                    "-connect",
                    to.as_str(),
                    "-servername",
                    name,
                    "-quiet",
                    version,
                    "-cipher",
                    "ALL:@SECLEVEL=0",
                ]
            };
            let before = world.arrived(ip);
            let output =
                run(&lab, "openssl", &arguments("allowed.example"), "GET / HTTP/1.0\r\n\r\n");
            // The world speaks TLS 1.2 and 1.3; that it refuses the others is its own affair.
            assert_eq!(said(&output).contains(GREETING), answers, "{version}: {}", said(&output));
            assert!(!said(&output).contains("access denied"), "{version}: {}", said(&output));
            assert!(world.arrived(ip).0 > before.0, "{version}: the hello arrived");
            let told = scene.refused("openssl", &arguments("other.example"), "");
            assert!(told.contains("alert access denied"), "{version}: {told}");
        }
        // No name at all.
        let bare = ["s_client", "-connect", &at(ip, 443), "-noservername", "-quiet"];
        let told = scene.refused("openssl", &bare, "");
        assert!(told.contains("alert access denied"), "{told}");
    }
    assert!(scene.gateway.count("reason=\"unread\"") >= 2.0);
}

#[test]
fn openssl_starts_tls_behind_smtp_imap_and_postgres_where_the_address_is_permitted() {
    if !has("openssl") {
        return;
    }
    let Some(lab) = lab("openssl -starttls") else { return };
    let _world = lab.world.helper("world");
    let scene = Scene::start(&lab, NAME_RULE);
    for (family, (protocol, port)) in
        [0, 1].into_iter().flat_map(|family| UPGRADES.map(|upgrade| (family, upgrade)))
    {
        let arguments = |to: &str| {
            [
                "s_client",
                "-starttls",
                protocol,
                "-connect",
                to,
                "-servername",
                "other.example",
                "-quiet",
            ]
            .map(str::to_owned)
        };
        let arguments = |ip: &str| arguments(&at(ip, port));
        let permitted = arguments(PERMITTED[family]);
        let permitted: Vec<&str> = permitted.iter().map(String::as_str).collect();
        let output = run(&lab, "openssl", &permitted, "GET / HTTP/1.0\r\n\r\n");
        assert!(said(&output).contains(GREETING), "{protocol}: {}", said(&output));
        let refused = arguments(REFUSED[family]);
        let refused: Vec<&str> = refused.iter().map(String::as_str).collect();
        let told = scene.refused("openssl", &refused, "");
        assert!(!told.contains(GREETING), "{protocol}: {told}");
    }
    assert!(scene.gateway.count("reason=\"outside\"") >= 8.0);
}

#[test]
fn ssh_gets_its_banner_without_waiting_for_a_first_byte() {
    if !has("ssh") {
        return;
    }
    let Some(lab) = lab("ssh") else { return };
    let _world = lab.world.helper("world");
    let scene = Scene::waiting(&lab, "60s", NAME_RULE);
    let options = ["-v", "-F", "none", "-o", "ConnectTimeout=20", "-o", "BatchMode=yes", "-p"];
    for family in [0, 1] {
        let port = SSH.to_string();
        let arguments = |ip| [&options[..], &[port.as_str(), ip, "true"]].concat();
        let told = said(&run(&lab, "ssh", &arguments(PERMITTED[family]), ""));
        assert!(told.contains("remote software version laboratory"), "{told}");
        let told = scene.refused("ssh", &arguments(REFUSED[family]), "");
        assert!(!told.contains("remote software version"), "{told}");
        // A client that waits for the banner gets it, though a first byte is waited for a minute
        // where one is needed.
        let mut silent = lab.client.helper("client");
        let ask = json!({"do": "send", "to": at(PERMITTED[family], SSH), "enough": 4,
            "patience_ms": 20_000});
        assert_eq!(silent.ask(&ask)["received"], role::hex(b"SSH-2.0-laboratory\r\n"));
    }
}

/// The HTTP/3 client and server of ngtcp2, with GnuTLS.
const H3: [&str; 2] = ["gtlsclient", "gtlsserver"];

/// Not every distribution has them, so CI does not insist.
fn has_h3() -> bool {
    let [client, server] = [Path::new("/usr/bin").join(H3[0]), Path::new("/usr/sbin").join(H3[1])];
    let both = client.exists() && server.exists();
    if !both {
        println!(
            "LEFT OUT: an HTTP/3 client, for {H3:?} are not installed (ngtcp2-client, -server)"
        );
    }
    both
}

fn h3_server(lab: &Lab, ip: &str, options: &[&str]) -> Server {
    let (key, certificate) = identity(lab);
    let mut command = lab.world.command("/usr/sbin/gtlsserver");
    lab.write("index.html", GREETING);
    command.args(["-q", "-d"]).arg(key.parent().unwrap()).args(options).args([ip, "443"]);
    let server = Server::start({
        command.args([&key, &certificate]).stdout(Stdio::null()).stderr(Stdio::null());
        command
    });
    let port = if ip.contains(':') { format!("[{ip}]:443") } else { format!("{ip}:443") };
    wait_until("the HTTP/3 server listens", || {
        lab.world.shell(&format!("ss -Hlun | grep -F '{port}'")).ok()
    });
    server
}

/// What comes of a request over HTTP/3 for `name` at `ip`: the page, and what the client said.
fn h3(lab: &Lab, ip: &str, name: &str, options: &[&str]) -> (String, String) {
    let pages = lab.write("pages", "").with_extension(name);
    drop(fs::remove_dir_all(&pages));
    fs::create_dir(&pages).unwrap();
    // The one way to a name in its hello; the file is what the laboratory takes for /etc/hosts.
    let hosts = lab.write("hosts", &format!("{ip} {name}\n"));
    lab.client.shell(&format!("mount --bind {} /etc/hosts", hosts.display())).unwrap();
    let download = format!("--download={}", pages.display());
    let url = format!("https://{name}/index.html");
    let own = ["--exit-on-all-streams-close", "--timeout=20s", "--no-quic-dump", "--no-http-dump"];
    let all = [&own[..], options, &[&download, name, "443", &url]].concat();
    let output = run(lab, "gtlsclient", &all, "");
    (fs::read_to_string(pages.join("index.html")).unwrap_or_default(), said(&output))
}

#[test]
fn l10_an_http_3_client_goes_on_in_the_version_that_its_server_prefers() {
    if !has_h3() {
        return;
    }
    let Some(lab) = lab("HTTP/3 versions") else { return };
    let _servers = REFUSED.map(|ip| h3_server(&lab, ip, &["--preferred-versions=v2draft"]));
    let scene = Scene::start(&lab, NAME_RULE);
    for ip in REFUSED {
        let options = ["-v", "v1", "--other-versions=v2draft,v1"];
        let (page, told) = h3(&lab, ip, "allowed.example", &options);
        assert_eq!(page, GREETING, "{ip}: {told}");
        assert!(told.contains("negotiated version is 0x709a50c4"), "{ip}: {told}");
    }
    let unread = "schengate_udp_dropped_total{cause=\"unread\"}";
    assert_eq!(scene.gateway.count(unread), 0.0, "no datagram of the other version is dropped");
}

#[test]
fn an_http_3_client_is_judged_by_its_name_with_retry_and_in_either_version() {
    if !has_h3() {
        return;
    }
    let Some(lab) = lab("HTTP/3") else { return };
    for options in [&[][..], &["-V"]] {
        let _servers = REFUSED.map(|ip| h3_server(&lab, ip, options));
        let scene = Scene::start(&lab, NAME_RULE);
        for (ip, version) in
            REFUSED.into_iter().flat_map(|ip| ["v1", "v2draft"].map(|version| (ip, version)))
        {
            let version = ["-v", version];
            let unseen = scene.foreign();
            let (page, told) = h3(&lab, ip, "allowed.example", &version);
            assert_eq!(page, GREETING, "{ip} {version:?} {options:?}: {told}");
            let before = scene.foreign();
            assert!(before > unseen, "a permitted flow is counted: {told}");
            let (page, told) = h3(&lab, ip, "other.example", &version);
            assert_eq!(page, "", "{told}");
            assert_eq!(scene.foreign(), before, "{ip} {version:?}: {told}");
        }
        lab.world.shell("nft delete table inet watch").unwrap();
    }
}

#[test]
fn an_http_3_client_moves_to_another_port_but_not_to_an_address_abroad() {
    if !has_h3() {
        return;
    }
    let Some(lab) = lab("HTTP/3, moving") else { return };
    let preferred = format!("--preferred-ipv4-addr={}", at(REFUSED[0], 443));
    let _server = h3_server(&lab, PERMITTED[0], &[&preferred]);
    let scene = Scene::start(&lab, "");
    let before = scene.foreign();
    for options in
        [&["--change-local-addr=1ms"][..], &["--nat-rebinding", "--change-local-addr=1ms"]]
    {
        let all = [options, &["--delay-stream=200ms", "--no-preferred-addr"]].concat();
        let (page, told) = h3(&lab, PERMITTED[0], "allowed.example", &all);
        assert_eq!(page, GREETING, "{options:?}: {told}");
    }
    // The server asks for it, the client tries, and stays where it was.
    let (page, told) = h3(&lab, PERMITTED[0], "allowed.example", &["--delay-stream=200ms"]);
    assert_eq!(page, GREETING, "{told}");
    assert_eq!(scene.foreign(), before, "{told}");
    assert!(scene.gateway.count("reason=\"outside\"") >= 1.0, "the client tried: {told}");
}

/// Browsers that run without a screen, by the names that distributions give them.
const BROWSERS: [&str; 3] = ["chromium-headless-shell", "chromium", "google-chrome"];

/// A page that asks for more, each time over a new connection, and writes down how long each took.
/// The answers say that HTTP/3 is to be had, so the browser tries QUIC from the second on.
const PAGE: &str = "<pre id=times></pre><script>
for (let n = 0; n < 4; n++) {
  const begun = performance.now(), ask = new XMLHttpRequest();
  ask.open('GET', '/greeting?' + n, false); ask.send();
  const line = ask.status + ' ' + (performance.now() - begun).toFixed(0) + ' ms';
  document.getElementById('times').textContent += line + '\\n';
}
</script>";

#[test]
fn a_browser_whose_quic_is_refused_goes_on_over_tcp() {
    // A browser is larger than all else that these tests need: CI does not insist on one.
    let browser = BROWSERS.into_iter().find(|name| Path::new("/usr/bin").join(name).exists());
    let Some(browser) = browser.filter(|_| has_server("nginx")) else {
        println!("LEFT OUT: a browser, for none of {BROWSERS:?} is installed");
        return;
    };
    let Some(lab) = lab("a browser") else { return };
    lab.write("page.html", PAGE);
    let _server =
        nginx(&lab, "keepalive_timeout 0; add_header Alt-Svc 'h3=\":443\"; ma=3600' always;");
    let no_quic = "[[rule]]\nname = \"no quic\"\nprotocol = [\"quic\"]\naction = \"block\"\n";
    let scene = Scene::start(&lab, &format!("{no_quic}{NAME_RULE}"));
    let key = fs::read_to_string(lab.write("x", "").with_file_name("certificate.pem")).unwrap();
    let ignore = format!("--ignore-certificate-errors-spki-list={}", key_hash(&key));
    let home = lab.write("profile", "").with_extension("d");
    let home = format!("--user-data-dir={}", home.display());
    for ip in REFUSED {
        let ip = at(ip, 443).replace(":443", "");
        let map = format!("--host-resolver-rules=MAP allowed.example {ip}");
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--dump-dom",
            &ignore,
            &home,
            &map,
            "https://allowed.example/page.html",
        ];
        let before = scene.gateway.count("verdict=\"block\"");
        // The kernel tells of link-local addresses a while after the laboratory was made, and the
        // browser gives up what it loads when it hears of a change.
        let output = wait_until("the browser's network stays as it is", || {
            let output = run(&lab, browser, &arguments, "");
            (!said(&output).contains("ERR_NETWORK_CHANGED")).then_some(output)
        });
        let told = said(&output);
        let dom = String::from_utf8_lossy(&output.stdout);
        assert_eq!(dom.matches("200 ").count(), 4, "every request was answered: {told}");
        let refused = scene.gateway.count("verdict=\"block\"") - before;
        assert!(refused >= 1.0, "QUIC was tried: {told}");
        println!("a browser to {ip}, {refused} QUIC flows refused: {dom}");
    }
}

/// SHA-256 of a certificate's public key, in the form that Chromium takes.
fn key_hash(certificate: &str) -> String {
    let lab = tempfile::tempdir().unwrap();
    let path = lab.path().join("certificate.pem");
    fs::write(&path, certificate).unwrap();
    let script = "openssl x509 -in \"$0\" -noout -pubkey | openssl pkey -pubin -outform der |
        openssl dgst -sha256 -binary | openssl base64";
    let output = Command::new("sh").args(["-euc", script]).arg(&path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
