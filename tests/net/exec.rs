//! `schengate exec` with real programs, and with one that tries to get past it: the gateway's namespace
//! of the laboratory is the host on which it is run.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::lab::role::GREETING;
use crate::lab::{self, Helper, Lab, NAME_SERVER, PERMITTED, REFUSED, has, lab, said, wait_until};

/// [`PERMITTED`] is in France, which is permitted; [`REFUSED`] is in the United States.
fn policy(more: &str) -> String {
    let places = lab::places();
    format!(
        "schema = 1
[policy]
mode = \"enforce\"
permit = [\"FR\"]

{places}[[place]]
to = [\"{NAME_SERVER}/32\"]
location = [\"FR\"]
reason = \"the name server of the laboratory\"

{more}"
    )
}

/// The laboratory with its world at work, and a policy of this host.
pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pub(crate) world: Helper,
    pub(crate) policy: PathBuf,
    pub(crate) program: PathBuf,
}

impl Scene {
    pub(crate) fn start(test: &str, more: &str) -> Option<Self> {
        let lab = lab(test)?;
        let world = lab.world.helper("world");
        let policy = lab.write("exec.toml", &policy(more));
        // Where an ordinary user finds it as well.
        let program = lab.write("schengate", "");
        lab::install(&program);
        fs::set_permissions(program.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { lab, world, policy, program })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.policy.with_file_name(name)
    }

    /// `schengate exec` on the host, with these options and this policy.
    pub(crate) fn exec(&self, options: &[&str], command: &[&str]) -> Command {
        // Signals that whoever runs the tests ignores (nohup, a shell's background) would stay ignored.
        let mut exec = self.lab.gateway.command("env");
        exec.arg("--default-signal").arg(&self.program);
        exec.arg("exec").arg("--config").arg(&self.policy);
        exec.args(options).arg("--").args(command);
        exec
    }

    /// Runs it to its end; what it and the command said, and its summary.
    pub(crate) fn run(&self, options: &[&str], command: &[&str]) -> (Output, Value) {
        let report = self.path("report.json");
        drop(fs::remove_file(&report));
        let mut all = vec!["--json", "--report", report.to_str().unwrap()];
        all.extend(options);
        let output = self.exec(&all, command).output().unwrap();
        let text = fs::read_to_string(&report).unwrap_or_default();
        let summary = serde_json::from_str(&text);
        (summary.map(|summary| (output.clone(), summary)))
            .unwrap_or_else(|_| panic!("no summary: {text:?}\n{}", said(&output)))
    }

    /// Counts packets that come to the world, but for the business of neighbours, names, and plain HTTP to
    /// one address.
    pub(crate) fn watch(&self) {
        self.lab
            .world
            .shell(&format!(
                "nft 'table inet seen {{ chain in {{ type filter hook prerouting priority -300
                    udp dport 53 ip daddr {NAME_SERVER} accept
                    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit,
                        mld2-listener-report, mld-listener-report }} accept
                    tcp dport 80 ip daddr {own} accept
                    iifname \"eth0\" counter
                }}
                }}'",
                own = PERMITTED[0],
            ))
            .unwrap();
    }

    pub(crate) fn seen(&self) -> String {
        let text = self.lab.world.shell("nft list table inet seen").unwrap();
        let line = text.lines().find(|line| line.contains("counter")).unwrap();
        line.trim().to_owned()
    }
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The row of a host or address in a table of the summary.
pub(crate) fn row<'s>(summary: &'s Value, table: &str, host: &str) -> &'s Value {
    let rows = summary[table].as_array().unwrap();
    let is = |row: &&Value| {
        row["host"] == host || row["address"].as_str().is_some_and(|it| it.contains(host))
    };
    rows.iter().find(is).unwrap_or_else(|| panic!("no {host} in {table}: {summary:#}"))
}

#[test]
fn e01_curl_goes_where_it_may_and_the_summary_says_where_and_what_was_refused_and_why() {
    let Some(mut scene) = Scene::start("e01", "") else { return };
    if !has("curl") {
        return;
    }
    for family in ["-4", "-6"] {
        let url = "http://permitted.example/";
        let (output, summary) = scene.run(&[], &["curl", "-sS", family, "--max-time", "20", url]);
        assert!(output.status.success(), "{family}: {}", said(&output));
        assert_eq!(stdout(&output), GREETING);
        let went = row(&summary, "went", "permitted.example");
        assert_eq!((&went["location"], &went["port"]), (&json!(["FR"]), &json!(80)));
        assert!(went["bytes_up"].as_u64().unwrap() > 40, "{went}");
        assert_eq!(summary["countries"], json!(["FR"]));
    }
    let url = "https://refused.example/";
    let (output, summary) = scene.run(&[], &["curl", "-sS", "--max-time", "20", url]);
    assert!(!output.status.success());
    assert_eq!(row(&summary, "refused", "refused.example")["reason"], "outside");
    // By address, and so without a name to refuse.
    for ip in REFUSED {
        let to = format!("http://{}/", lab::at(ip, 80));
        let (output, summary) = scene.run(&[], &["curl", "-sSf", "--max-time", "20", &to]);
        assert!(!output.status.success());
        let refused = row(&summary, "refused", ip);
        assert_eq!((&refused["reason"], &refused["location"]), (&json!("outside"), &json!(["US"])));
        assert_eq!(scene.world.arrived(ip), (0, 0));
    }
}

#[test]
fn e02_output_input_and_status_are_those_of_the_command() {
    let Some(scene) = Scene::start("e02", "") else { return };
    let mut child = scene
        .exec(&[], &["sh", "-c", "cat; echo to stderr >&2; exit 7"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through and through").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert_eq!(stdout(&output), "through and through");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("to stderr") && stderr.contains("status 7"), "{stderr}");
    let text = scene.lab.write("text", "no program");
    for (command, status) in [
        (&["sh", "-c", "kill -KILL $$"][..], 128 + 9),
        (&["/nowhere/at/all"][..], 127),
        (&[text.to_str().unwrap()][..], 126),
        (&["true"][..], 0),
    ] {
        let output = scene.exec(&["-q"], command).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{command:?}: {}", said(&output));
    }
    let output = scene.exec(&["--report", "/nowhere/report"], &["touch", "/dev/null"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert!(said(&output).contains("/nowhere/report"));
}

/// The process of `schengate exec`, which `nsenter` has become, with its first line of output read.
fn started(scene: &Scene, command: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = scene
        .exec(&["-q"], command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, lines)
}

/// Ways that do not lead through the network namespace: each of these was open once.
#[test]
fn e13_a_process_group_a_directory_keys_and_a_socket_for_standard_input_lead_nowhere() {
    let Some(scene) = Scene::start("e13", "") else { return };
    // A command in a process group of its own is waited for as any other.
    for command in [&["setsid", "sh", "-c", "exit 7"][..], &["timeout", "9", "sh", "-c", "exit 7"]]
    {
        assert_eq!(
            scene.exec(&["-q"], command).output().unwrap().status.code(),
            Some(7),
            "{command:?}"
        );
    }
    // The directory that it begins in is the one of that name, and not what lies beneath it.
    for directory in ["/run", "/proc/sys"] {
        let own = "test . -ef \"$PWD\" && ! test -w kernel/core_pattern";
        let mut exec = scene.lab.gateway.command("sh");
        exec.args(["-c", "cd \"$1\" && shift && exec \"$@\"", "sh", directory]).arg(&scene.program);
        exec.arg("exec").arg("--config").arg(&scene.policy).args(["-q", "--", "sh", "-c", own]);
        let output = exec.output().unwrap();
        assert!(output.status.success(), "{directory}: {}", said(&output));
    }
    // For a key that is not there the kernel would start a program of the host.
    let keys = "import ctypes, sys; libc = ctypes.CDLL(None, use_errno=True)\n\
                made = libc.syscall(NUMBER, b'user', b'schengate-test', b'', 0)\n\
                sys.exit(0 if made == -1 and ctypes.get_errno() == 1 else 1)";
    let keys = keys.replace("NUMBER", &libc::SYS_request_key.to_string());
    let (output, _) = scene.run(&[], &["python3", "-c", &keys]);
    assert!(output.status.success(), "{}", said(&output));
    // A socket that is given to it would be connected to anywhere.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let output = scene.exec(&["-q"], &["true"]).stdin(OwnedFd::from(socket)).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert!(said(&output).contains("network socket"), "{}", said(&output));
}

#[test]
fn e03_signals_reach_the_command_and_nothing_outlives_it() {
    let Some(scene) = Scene::start("e03", "") else { return };
    for (signal, name) in [(15, "TERM"), (2, "INT"), (1, "HUP"), (10, "USR1")] {
        let script = format!("trap 'echo heard; exit 40' {name}; echo ready; read line");
        // A shell acts on a signal once what it waits for is over: its own `read` is.
        let (mut child, mut lines) = started(&scene, &["sh", "-c", &script]);
        let signalled = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        assert!(signalled.unwrap().success());
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(40), "{signal}");
        assert_eq!(rest, "heard\n");
    }
    // A daemon that stays, and the whole of it where `exec` itself is killed.
    let marker = format!("stays-{}", std::process::id());
    let daemon =
        format!("setsid sh -c 'while :; do sleep 1000; done' {marker} & echo ready; read l");
    let alive = || {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let own = |line: Vec<u8>| {
            // Its own zero-th argument, not one within a script.
            line.split(|&byte| byte == 0).any(|word| word == marker.as_bytes())
        };
        all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
            .filter(|line| own(line.clone()))
            .count()
    };
    let (mut child, _lines) = started(&scene, &["sh", "-c", &daemon]);
    wait_until("the daemon is there", || (alive() == 1).then_some(()));
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(alive(), 0, "it stays");
    let (mut child, _lines) = started(&scene, &["sh", "-c", &daemon]);
    wait_until("the daemon is there", || (alive() == 1).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the daemon is gone", || (alive() == 0).then_some(()));
}

#[test]
fn e04_python_and_git_go_through_it_without_knowing() {
    let Some(mut scene) = Scene::start("e04", "") else { return };
    if has("python3") {
        let script = "import urllib.request, sys
print(urllib.request.urlopen('http://permitted.example/', timeout=20).read().decode())
try: urllib.request.urlopen('http://refused.example/', timeout=20)
except Exception as e: print(type(e).__name__)";
        let (output, summary) = scene.run(&[], &["python3", "-c", script]);
        let text = stdout(&output);
        assert!(text.starts_with(GREETING) && text.contains("Error"), "{}", said(&output));
        assert_eq!(row(&summary, "went", "permitted.example")["port"], 80);
        assert_eq!(row(&summary, "refused", "refused.example")["reason"], "outside");
    }
    if has("git") {
        let shared = scene.path("shared");
        let make = format!(
            "export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b \
             GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
             git init -q {0}/repo; cd {0}/repo; echo x >file; git add file; git commit -qm first",
            shared.display()
        );
        scene.lab.world.shell(&make).unwrap();
        // The program itself, which `git daemon` would leave behind.
        let folder = Command::new("git").arg("--exec-path").output().unwrap();
        let mut daemon = scene
            .lab
            .world
            .command(Path::new(stdout(&folder).trim()).join("git-daemon"))
            .args(["--export-all", "--reuseaddr"])
            .arg(format!("--base-path={}", shared.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let clone = scene.path("clone");
        wait_until("git serves", || {
            let is_there = "grep -q ':24CA [0-9A-F:]* 0A' /proc/net/tcp /proc/net/tcp6";
            scene.lab.world.shell(is_there).ok()
        });
        let url = "git://permitted.example/repo";
        let (output, summary) =
            scene.run(&[], &["git", "clone", "-q", url, clone.to_str().unwrap()]);
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        assert!(clone.join("file").exists());
        // No hello in it: the address alone is judged.
        let went = summary["went"].as_array().unwrap();
        assert!(went.iter().any(|row| row["port"] == 9418), "{summary:#}");
    }
    assert_eq!(scene.world.arrived(REFUSED[0]), (0, 0));
}

#[test]
fn e05_names_are_asked_of_the_gateway_whichever_server_is_named() {
    let Some(mut scene) = Scene::start("e05", "") else { return };
    if !has("python3") {
        return;
    }
    // An A question for permitted.example and for refused.example, over UDP and TCP, to three servers.
    let script = "import socket, struct
def query(name): return struct.pack('>HHHHHH', 7, 0x100, 1, 0, 0, 0) + b''.join(bytes([len(l)]) + l.encode() for l in name.split('.')) + b'\\0\\0\\1\\0\\1'
for server in ['8.8.8.8', '203.0.113.7', '2001:db8:bad::7']:
    for name in ['permitted.example', 'refused.example']:
        u = socket.socket(socket.AF_INET6 if ':' in server else socket.AF_INET, socket.SOCK_DGRAM)
        u.settimeout(20); u.connect((server, 53)); u.send(query(name)); a = u.recv(999)
        t = socket.create_connection((server, 53), 20); q = query(name); t.send(struct.pack('>H', len(q)) + q)
        n = struct.unpack('>H', t.recv(2, socket.MSG_WAITALL))[0]; b = t.recv(n, socket.MSG_WAITALL)
        print(server, name, struct.unpack('>H', a[6:8])[0], struct.unpack('>H', b[6:8])[0], bytes([198,51,100,7]) in a)
print(socket.gethostbyname('permitted.example'))";
    let (output, _) = scene.run(&[], &["python3", "-c", script]);
    let mut expected = String::new();
    for server in ["8.8.8.8", REFUSED[0], REFUSED[1]] {
        // What the policy refuses is left out of the answer.
        expected.push_str(&format!(
            "{server} permitted.example 1 1 True\n{server} refused.example 0 0 False\n"
        ));
    }
    expected.push_str(PERMITTED[0]);
    assert_eq!(stdout(&output).trim(), expected, "{}", said(&output));
    let asked = scene.world.ask(&json!("asked"));
    assert!(asked.as_array().unwrap().contains(&json!("permitted.example")), "{asked}");
}

/// Tries to reach the world past the gateway, one way after the other, and says of each how it went.
const HOSTILE: &str = r#"
import ctypes, errno, os, socket, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
r4, r6, abstract, named, inherited = sys.argv[1:6]
def call(*a):
    if libc.syscall(*a) < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def raw(): socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).sendto(b'E' * 60, (r4, 0))
def udp():
    for port in [53, 123, 443, 4433, 9000]:
        for family, ip in [(socket.AF_INET, r4), (socket.AF_INET6, r6)]:
            s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(.3); s.sendto(b'past the gateway', (ip, port))
            try:
                if port != 53: s.recv(10); print('ANSWERED', port, ip)
            except OSError: pass
    raise OSError(errno.ENETUNREACH, 'sent into nothing')
def tcp():
    for ip in [r4, r6]:
        for port in [443, 853, 9000]:
            try: s = socket.create_connection((ip, port), 5); s.send(b'\0' * 8 + b'past'); s.settimeout(5); got = s.recv(10)
            except OSError: continue
            if got and got[0] != 0x15: print('ANSWERED', port, ip, got)
    raise OSError(errno.ECONNRESET, 'refused')
def doh():
    import urllib.request; urllib.request.urlopen('https://%s/dns-query?dns=AAAB' % r4, timeout=5).read()
def ping(): socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
def ping_by_datagram():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP); s.settimeout(.5)
    s.sendto(b'\x08\0\0\0\0\1\0\1', (r4, 0)); s.recv(99)
def packet(): socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)
def sctp(): s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132); s.settimeout(.5); s.connect((r4, 443))
def vsock(): socket.socket(40, socket.SOCK_STREAM)
def uring():
    call(425, 8, ctypes.create_string_buffer(120))
def setns():
    ok = 0
    for pid in os.listdir('/proc'):
        if pid.isdigit() and os.stat('/proc/%s' % pid) and pid != str(os.getpid()):
            try: fd = os.open('/proc/%s/ns/net' % pid, os.O_RDONLY)
            except OSError: continue
            call(308, fd, 0); ok = 1
    if not ok: raise OSError(errno.EPERM, 'nobody else is here')
def unshare_and_route(): call(272, 0x40000000)
def addresses(): subprocess.run(['ip', 'link', 'add', 'out0', 'type', 'dummy'], check=True, stderr=subprocess.DEVNULL)
def route(): subprocess.run(['ip', 'route', 'replace', 'default', 'via', '127.0.0.1'], check=True, stderr=subprocess.DEVNULL)
def rules(): subprocess.run(['nft', 'flush', 'ruleset'], check=True, stderr=subprocess.DEVNULL)
def trace(): 
    call(101, 16, 1, 0, 0)
def memory(): os.open('/proc/1/mem', os.O_RDWR)
def descriptors(): call(438, libc.syscall(434, 1, 0), 3, 0)
def descriptor_files(): os.readlink('/proc/1/fd/3')
def abstract_socket(): socket.socket(socket.AF_UNIX).connect('\0' + abstract)
def named_socket(): socket.socket(socket.AF_UNIX).connect(named)
def run_socket():
    found = [os.path.join(d, f) for d, _, fs in os.walk('/run') for f in fs if os.path.exists(os.path.join(d, f)) and (os.stat(os.path.join(d, f)).st_mode & 0o170000) == 0o140000]
    if not found: raise OSError(errno.ENOENT, 'no socket')
    print('SOCKETS', found)
def inherited_socket(): os.write(int(inherited), b'past the gateway by what was open')
# Opened and not written to: where it is open, this host's own would be changed.
def kernel_switch(): os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY)
def terminal():
    import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b'x')
def mount(): call(165, b'none', b'/run', b'tmpfs', 0, 0)
def uncover(): call(166, b'/run', 0)
def tun():
    import fcntl
    fd = os.open('/dev/net/tun', os.O_RDWR); fcntl.ioctl(fd, 0x400454ca, struct.pack('16sH22x', b'out0', 0x1001))
def mark(): socket.socket(socket.AF_INET, socket.SOCK_STREAM).setsockopt(socket.SOL_SOCKET, 36, 1)
def transparent(): socket.socket(socket.AF_INET, socket.SOCK_STREAM).setsockopt(0, 19, 1)
def netlink_dump(): s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); s.bind((0, 0)); s.send(struct.pack('IHHIIBxHiII', 32, 16, 5, 1, 0, 0, 0, 1, 0, 1)); got = s.recv(999); code = struct.unpack('i', got[16:20])[0]; (_ for _ in ()).throw(OSError(-code, os.strerror(-code))) if code else None
for way in [raw, udp, tcp, doh, ping, ping_by_datagram, packet, sctp, vsock, uring, setns, unshare_and_route, addresses, route, rules, trace, memory, descriptors, descriptor_files, abstract_socket, named_socket, run_socket, inherited_socket, kernel_switch, terminal, mount, uncover, tun, mark, transparent, netlink_dump]:
    try: way(); print('OPEN', way.__name__)
    except Exception as e: print('shut', way.__name__, type(e).__name__, e)
print('capabilities', [l.split()[1] for l in open('/proc/self/status') if l.startswith('Cap')])
"#;

/// Listeners of the host that a command may not reach, and one that it may.
struct Host {
    listener: Child,
    named: PathBuf,
}

impl Host {
    /// Listens on an abstract name, on one in a directory, and says whether anybody came.
    fn listen(scene: &Scene, abstract_name: &str) -> Self {
        let named = scene.path("host.sock");
        // A /run of this host's own.
        scene.lab.gateway.shell("mount -t tmpfs -o mode=0755 tmpfs /run").unwrap();
        let script = "import os, socket, sys, select
one = socket.socket(socket.AF_UNIX); one.bind('\\0' + sys.argv[1]); one.listen()
two = socket.socket(socket.AF_UNIX); two.bind(sys.argv[2]); two.listen()
three = socket.socket(socket.AF_UNIX); three.bind('/run/host.sock'); three.listen(); os.chmod('/run/host.sock', 0o777)
print('ready', flush=True)
while True:
    for s in select.select([one, two, three], [], [])[0]: s.accept(); print('came', flush=True)";
        let mut listener = scene
            .lab
            .gateway
            .command("python3")
            .args(["-c", script, abstract_name])
            .arg(&named)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(listener.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        fs::set_permissions(&named, fs::Permissions::from_mode(0o777)).unwrap();
        Self { listener, named }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.listener.kill());
        drop(self.listener.wait());
    }
}

fn hostile(scene: &mut Scene, wrap: &[&str]) {
    let host = Host::listen(scene, "schengate-exec-abstract");
    scene.watch();
    let script = scene.lab.write("hostile.py", HOSTILE);
    let exec = format!(
        "exec {} {} exec --config {} --json --report {} -- {} {} {} {} {} {} 9 9<&0 </dev/null",
        wrap.join(" "),
        scene.program.display(),
        scene.policy.display(),
        scene.path("report.json").display(),
        python(),
        script.display(),
        REFUSED[0],
        REFUSED[1],
        "schengate-exec-abstract",
        host.named.display(),
    );
    // A socket of the host that was left open, as descriptor 9: to the permitted side of the world.
    let relay = format!(
        "import os, socket, subprocess, sys
s = socket.create_connection(('{}', 80))
open('{}', 'w').close(); os.chmod('{}', 0o666)
sys.exit(subprocess.run(['sh', '-c', sys.argv[1]], stdin=s).returncode)",
        PERMITTED[0],
        scene.path("report.json").display(),
        scene.path("report.json").display()
    );
    let before = scene.world.arrived(PERMITTED[0]);
    let output = scene.lab.gateway.command(python()).args(["-c", &relay, &exec]).output().unwrap();
    let text = stdout(&output);
    assert!(output.status.success(), "{}", said(&output));
    let lines: Vec<&str> = text.lines().collect();
    let open: Vec<_> = lines.iter().filter(|line| !line.starts_with("shut ")).collect();
    let none = "['0000000000000000', '0000000000000000', '0000000000000000', '0000000000000000', '0000000000000000']";
    assert_eq!(open, [&&*format!("capabilities {none}")], "{text}");
    assert!(lines.len() > 25, "{text}");
    for way in ["vsock PermissionError", "uring PermissionError", "trace", "inherited_socket"] {
        assert!(text.contains(way), "{way}: {text}");
    }
    // What came in the world is the one connection of this test's own.
    let bytes = scene.world.arrived(PERMITTED[0]);
    assert_eq!(bytes.0, before.0, "bytes by a socket that was left open");
    for ip in REFUSED {
        assert_eq!(scene.world.arrived(ip), (0, 0), "{ip}");
    }
    let seen = scene.seen();
    assert!(seen.contains("counter packets 0 bytes 0"), "{seen}");
    let report = fs::read_to_string(scene.path("report.json")).unwrap();
    let summary: Value = serde_json::from_str(&report).unwrap();
    for ip in REFUSED {
        assert_eq!(row(&summary, "refused", ip)["reason"], "outside");
    }
    assert!(summary["unserved"]["udp"].as_u64().unwrap() > 0, "{summary:#}");
    assert_eq!(summary["countries"], json!([]), "{summary:#}");
}

fn python() -> &'static str {
    if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" }
}

#[test]
fn e06_thirty_ways_out_are_shut_for_an_administrator() {
    let Some(mut scene) = Scene::start("e06", "") else { return };
    if has("python3") {
        hostile(&mut scene, &[]);
    }
}

#[test]
fn e07_and_for_an_ordinary_user() {
    let Some(mut scene) = Scene::start("e07", "") else { return };
    if has("python3") && has("setpriv") {
        hostile(&mut scene, &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
}

#[test]
fn e08_datagrams_to_port_443_are_judged_and_answered_from_where_they_were_sent_to() {
    let Some(mut scene) = Scene::start("e08", "") else { return };
    if !has("python3") {
        return;
    }
    let script = "import socket, sys
for ip in sys.argv[1:]:
    s = socket.socket(socket.AF_INET6 if ':' in ip else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(3); s.sendto(b'are you there', (ip, 443))
    try: got, whence = s.recvfrom(99); print(ip, got, whence[0] == ip, whence[1])
    except OSError: print(ip, 'nothing')";
    let all = [PERMITTED, REFUSED].concat();
    let command = [&["python3", "-c", script][..], &all].concat();
    let (output, summary) = scene.run(&[], &command);
    let mut expected = String::new();
    for ip in PERMITTED {
        expected.push_str(&format!("{ip} b'are you there' True 443\n"));
    }
    for ip in REFUSED {
        expected.push_str(&format!("{ip} nothing\n"));
        assert_eq!(scene.world.arrived(ip), (0, 0));
        assert_eq!(row(&summary, "refused", ip)["transport"], "udp");
    }
    assert_eq!(stdout(&output), expected, "{}", said(&output));
    assert_eq!(row(&summary, "went", PERMITTED[0])["transport"], "udp");
    let (output, _) = scene.run(&["--no-quic"], &command);
    let none: String = all.iter().map(|ip| format!("{ip} nothing\n")).collect();
    assert_eq!(stdout(&output), none);
}

#[test]
fn e09_observe_refuses_nothing_and_proposes_the_rules_that_the_run_needed() {
    let more = "[names]\nbinding = \"verify\"\n";
    let Some(mut scene) = Scene::start("e09", more) else { return };
    if !has("curl") {
        return;
    }
    let proposed = scene.path("proposed.toml");
    let propose = format!("--propose={}", proposed.display());
    let curl =
        ["curl", "-sS", "--max-time", "20", "http://refused.example/", "http://permitted.example/"];
    let (output, summary) = scene.run(&["--observe", &propose], &curl);
    assert_eq!(stdout(&output), GREETING.repeat(2), "{}", said(&output));
    let went = row(&summary, "went", "refused.example");
    assert_eq!((&went["would"], &went["reason"]), (&json!("block"), &json!("outside")), "{went}");
    assert_eq!(summary["mode"], "observe");
    // What it proposes is a policy, and with it the run needs nothing more.
    let check = Command::new(env!("CARGO_BIN_EXE_schengate"))
        .args(["check", "--config"])
        .arg(&proposed)
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", said(&check));
    let before = scene.world.arrived(REFUSED[0]).0 + scene.world.arrived(REFUSED[1]).0;
    let refused = scene.run(&[], &curl).1;
    assert_eq!(row(&refused, "refused", "refused.example")["reason"], "outside");
    assert_eq!(scene.world.arrived(REFUSED[0]).0 + scene.world.arrived(REFUSED[1]).0, before);
    scene.policy = proposed;
    let (output, summary) = scene.run(&[], &curl);
    assert_eq!(stdout(&output), GREETING.repeat(2), "{}", said(&output));
    assert_eq!(row(&summary, "went", "refused.example")["reason"], "rule");
}

#[test]
fn e10_words_on_the_command_line_are_a_policy() {
    let Some(mut scene) = Scene::start("e10", "") else { return };
    if !has("curl") {
        return;
    }
    let report = scene.path("report.json");
    let exec = |words: &str| {
        let mut exec = scene.lab.gateway.command(&scene.program);
        exec.args(["exec", "--policy", words, "--json", "--report"]).arg(&report);
        exec.args(["--", "curl", "-sS", "--max-time", "20", "http://permitted.example/"]);
        exec.output().unwrap()
    };
    // No table knows an address of documentation.
    let output = exec("permit=eea");
    assert!(!output.status.success() && output.status.code() != Some(125), "{}", said(&output));
    let output = exec("permit=eea on.unknown=log");
    assert_eq!(stdout(&output), GREETING, "{}", said(&output));
    let output = exec("permit=nowhere");
    assert_eq!(output.status.code(), Some(125));
    assert!(said(&output).contains("nowhere"), "{}", said(&output));
    assert_eq!(scene.world.arrived(REFUSED[0]), (0, 0));
}

#[test]
fn e11_without_namespaces_it_says_so_and_how_to_go_on() {
    let Some(scene) = Scene::start("e11", "") else { return };
    // In a user namespace of its own the limit is nobody else's.
    let script = format!(
        "echo 0 >/proc/sys/user/max_user_namespaces; exec {} exec --config {} -- true",
        scene.program.display(),
        scene.policy.display()
    );
    let output = Command::new("unshare").args(["-Ur", "sh", "-c", &script]).output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(125), "{text}");
    for part in ["sysctl -w user.max_user_namespaces", "HTTPS_PROXY=http://127.0.0.1:3128"] {
        assert!(text.contains(part), "no {part:?}: {text}");
    }
}

#[test]
fn e12_a_socket_of_the_host_is_within_reach_where_it_is_kept() {
    let Some(scene) = Scene::start("e12", "") else { return };
    if !has("python3") {
        return;
    }
    let host = Host::listen(&scene, "schengate-exec-kept");
    let named = host.named.to_str().unwrap();
    let connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
    let command = ["python3", "-c", connect, named];
    let hidden = scene.exec(&["-q"], &command).output().unwrap();
    assert_eq!(hidden.status.code(), Some(1), "{}", said(&hidden));
    let kept = scene.exec(&["-q", "--keep", named], &command).output().unwrap();
    assert!(kept.status.success(), "{}", said(&kept));
}
