//! A laboratory of three network namespaces: a client, a gateway, a world.
//!
//! ```text
//!  client eth0 192.0.2.2 ── lan0 192.0.2.1 gateway wan0 198.51.100.1 ── eth0 198.51.100.2 world
//!         2001:db8:1::2          2001:db8:1::1     2001:db8:2::1             2001:db8:2::2
//! ```
//! The world answers on [`PERMITTED`] and on [`REFUSED`], and counts each byte that arrives there.
//! A namespace lives as long as its holder process, which ends when its standard input does: no
//! test that dies leaves anything behind.

#![allow(dead_code, reason = "each test binary uses its own part of the laboratory")]

pub(crate) mod answers;
pub(crate) mod names;
pub(crate) mod role;
pub(crate) mod services;
mod strange;

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

/// World addresses that the policies of these tests place in France (IPv4, IPv6).
pub(crate) const PERMITTED: [&str; 2] = ["198.51.100.7", "2001:db8:2::7"];
/// World addresses that they place in the United States.
pub(crate) const REFUSED: [&str; 2] = ["203.0.113.7", "2001:db8:bad::7"];
/// The gateway's addresses on the client's side.
pub(crate) const GATEWAY: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
/// Where the world's name server answers.
pub(crate) const NAME_SERVER: &str = "198.51.100.53";
/// Where the gateway serves its metrics, inside its namespace.
pub(crate) const ADMIN: &str = "127.0.0.1:9643";

/// Has the gateway believe that forged clients (198.18.0.0/15 is for benchmarks) are there. Not on the
/// link itself: each would take an entry of the neighbour table, which all namespaces share
/// (`net.ipv4.neigh.default.gc_thresh3`), and other laboratories would find nobody.
pub(crate) const BEHIND_THE_CLIENT: &str = "ip route add 198.18.0.0/15 via 192.0.2.2 dev lan0";

/// The counter of final lines of the record.
const FINALS: &str = "schengate_verdicts_final_total";

/// Both sides as a policy names them: [`PERMITTED`] is in France, [`REFUSED`] in the United States.
pub(crate) fn places() -> String {
    let ([p4, p6], [r4, r6]) = (PERMITTED, REFUSED);
    format!(
        "[[place]]
to = [\"{p4}/32\", \"{p6}/128\"]
location = [\"FR\"]
reason = \"the permitted side of the laboratory\"

[[place]]
to = [\"{r4}/32\", \"{r6}/128\"]
location = [\"US\"]
reason = \"the refused side of the laboratory\"

"
    )
}

/// Client, gateway and world namespaces joined by veth pairs, gone on drop.
pub(crate) struct Lab {
    pub(crate) client: Space,
    pub(crate) gateway: Space,
    pub(crate) world: Space,
    directory: TempDir,
}

/// `None`, after saying why, where the laboratory cannot be made; under `SCHENGATE_NETNS=require`
/// (CI) that is a panic instead.
pub(crate) fn lab(test: &str) -> Option<Lab> {
    match Lab::build() {
        Err(e) if env::var("SCHENGATE_NETNS").is_ok_and(|v| v == "require") => {
            panic!("{test} needs network namespaces: {e}")
        }
        built => built.inspect_err(|e| eprintln!("SKIPPED {test}: {e}")).ok(),
    }
}

impl Lab {
    fn build() -> io::Result<Self> {
        let gateway = Space::first()?;
        let (client, world) = (gateway.sibling()?, gateway.sibling()?);
        let directory = tempfile::tempdir()?;
        // No address is looked for in use: there is none, and who listens for changes of its network,
        // as browsers do, would hear of one when the laboratory is at work.
        for space in [&gateway, &client, &world] {
            space.shell(
                "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0",
            )?;
        }
        let resolver = directory.path().join("resolv.conf");
        fs::write(&resolver, format!("nameserver {NAME_SERVER}\noptions timeout:1 attempts:2\n"))?;
        gateway.shell(&format!(
            "mount --bind {resolver} /etc/resolv.conf
            ip link set lo up
            ip link add lan0 type veth peer name eth0 netns {client}
            ip link add wan0 type veth peer name eth0 netns {world}
            ip link set lan0 up; ip link set wan0 up
            ip address add 192.0.2.1/24 dev lan0
            ip address add 2001:db8:1::1/64 dev lan0 nodad
            ip address add 198.51.100.1/24 dev wan0
            ip address add 2001:db8:2::1/64 dev wan0 nodad
            ip route add default via 198.51.100.2
            ip route add default via 2001:db8:2::2",
            resolver = resolver.display(),
            client = client.pid(),
            world = world.pid(),
        ))?;
        client.shell(
            "ip link set lo up; ip link set eth0 up
            ip address add 192.0.2.2/24 dev eth0
            ip address add 2001:db8:1::2/64 dev eth0 nodad
            ip route add default via 192.0.2.1
            ip route add default via 2001:db8:1::1",
        )?;
        let addresses = [PERMITTED, REFUSED].concat().into_iter().chain([NAME_SERVER]);
        let own: String = addresses
            .map(|ip| match ip.parse() {
                Ok(IpAddr::V6(ip)) => format!("ip address add {ip}/128 dev eth0 nodad\n"),
                _ => format!("ip address add {ip}/32 dev eth0\n"),
            })
            .collect();
        world.shell(&format!(
            "ip link set lo up; ip link set eth0 up
            ip address add 198.51.100.2/24 dev eth0
            ip address add 2001:db8:2::2/64 dev eth0 nodad
            {own}
            ip route add default via 198.51.100.1
            ip route add default via 2001:db8:2::1",
        ))?;
        Ok(Self { client, gateway, world, directory })
    }

    /// Writes a file of this laboratory.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Every line of the record of the gateway that was started here, in the order of their ids.
    pub(crate) fn record(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.path().join("gateway.log")).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("{\"event\":"));
        let lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut lines: Vec<Value> = lines.collect();
        let number = |line: &Value| line["id"].as_str()?.rsplit('-').next()?.parse::<u64>().ok();
        lines.sort_by_key(number);
        lines
    }

    /// Lets the gateway's kernel forward, as other software does behind an administrator's back.
    pub(crate) fn switch_forwarding_on(&self) {
        self.gateway
            .shell("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
            .unwrap();
    }

    /// Takes every fence away, for the measure itself: what leaves where nothing stands.
    pub(crate) fn open(&self) {
        self.gateway.shell("nft flush ruleset").unwrap();
        let mut down = self.gateway.command(env!("CARGO_BIN_EXE_schengate"));
        let output = down.args(["capture", "down", "--guard"]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }

    /// Starts the built binary in the gateway's namespace and waits until it is ready.
    pub(crate) fn start_gateway(&self, policy: &str) -> Gateway<'_> {
        self.start_gateway_with(policy, "")
    }

    /// As [`Lab::start_gateway`], after a line of shell, such as `ulimit -n 100;`.
    pub(crate) fn start_gateway_with(&self, policy: &str, before: &str) -> Gateway<'_> {
        let config = self.write("policy.toml", policy);
        let log = self.directory.path().join("gateway.log");
        let file = File::create(&log).unwrap();
        let child = self
            .gateway
            .command("sh")
            .args(["-euc", &format!("{before} exec \"$0\" run --config \"$1\"")])
            .arg(env!("CARGO_BIN_EXE_schengate"))
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut gateway = Gateway { lab: self, child, config, log };
        wait_until("the gateway is ready", || {
            if let Some(status) = gateway.child.try_wait().unwrap() {
                panic!("the gateway ended: {status}");
            }
            gateway.admin("/readyz").is_some().then_some(())
        });
        gateway
    }
}

/// The gateway process; killed on drop, its log shown where a test fails.
pub(crate) struct Gateway<'lab> {
    lab: &'lab Lab,
    child: Child,
    config: PathBuf,
    log: PathBuf,
}

impl Gateway<'_> {
    /// `schengate capture up --gateway`, in the gateway's namespace.
    pub(crate) fn capture(&self) {
        self.capture_with(&[]);
    }

    /// As [`Gateway::capture`], with more arguments, such as `--interface lan0`.
    pub(crate) fn capture_with(&self, more: &[&str]) {
        let output = self
            .lab
            .gateway
            .command(env!("CARGO_BIN_EXE_schengate"))
            .args(["capture", "up", "--gateway", "--config"])
            .arg(&self.config)
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "capture up: {}", said(&output));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its policy file.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// Resident memory of the process.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Descriptors that the process may have.
    pub(crate) fn descriptor_limit(&self) -> u64 {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.child.id())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        line.split_whitespace().nth(3).unwrap().parse().unwrap()
    }

    /// Descriptors that the process has open.
    pub(crate) fn descriptors(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        open.expect("the gateway lives").count()
    }

    /// The same, where the process is still there.
    pub(crate) fn descriptors_if_there(&self) -> Option<usize> {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).ok().map(Iterator::count)
    }

    /// Every line of the record so far that ends a connection or request.
    pub(crate) fn final_lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.log).unwrap();
        let lines = text.split_inclusive('\n').filter(|line| line.starts_with("{\"event\":"));
        let whole = lines.filter(|line| line.ends_with('\n'));
        let lines = whole.map(|line| serde_json::from_str::<Value>(line).expect("a line"));
        lines.filter(|line| line["event"] != "open").collect()
    }

    /// Has the process load another policy, and waits until it has.
    pub(crate) fn reload(&self, policy: &str) {
        let done = "schengate_policy_reload_total{result=\"done\"}";
        let before = self.count(done);
        fs::write(&self.config, policy).unwrap();
        let hangup = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status();
        assert!(hangup.unwrap().success());
        wait_until("the policy is loaded", || (self.count(done) > before).then_some(()));
    }

    /// Has the process end in order, and gives the lines of its record.
    pub(crate) fn stop(&mut self) -> Vec<Value> {
        let hangup = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(hangup.unwrap().success());
        self.child.wait().unwrap();
        self.records()
    }

    /// The lines of its record so far.
    pub(crate) fn records(&self) -> Vec<Value> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["event"].is_string()).collect()
    }

    /// Ends the process as the kernel does when memory runs out.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sum of every counter that carries this label, such as `reason="outside"`.
    pub(crate) fn count(&self, label: &str) -> f64 {
        let metrics = self.admin("/metrics").expect("metrics");
        metrics
            .lines()
            .filter(|line| !line.starts_with('#') && line.contains(label))
            // The same verdicts once more, at the end: only for who asks for them by name.
            .filter(|line| !line.starts_with(FINALS) || label.starts_with(FINALS))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Every metric.
    pub(crate) fn metrics(&self) -> String {
        self.admin("/metrics").expect("metrics")
    }

    /// Whether the metrics hold this line.
    pub(crate) fn shows(&self, wanted: &str) -> bool {
        self.admin("/metrics").expect("metrics").lines().any(|line| line == wanted)
    }

    /// The body of a page of the admin listener, if the answer is a success.
    fn admin(&self, page: &str) -> Option<String> {
        let output = self
            .lab
            .gateway
            .command("curl")
            .args(["-sf", "--noproxy", "*", "--max-time", "5", &format!("http://{ADMIN}{page}")])
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default();
            eprintln!("--- end of the gateway's log\n{}", last.join("\n"));
        }
    }
}

/// A network namespace (the gateway's: a mount namespace too), held open by a process.
pub(crate) struct Space {
    holder: Child,
    /// Where root is only root inside: the user namespace is entered as well.
    user: bool,
}

impl Space {
    /// A namespace with new mounts: as root, else in a user namespace of its own.
    fn first() -> io::Result<Self> {
        Self::hold(Command::new("unshare").arg("-mn"), false).or_else(|as_root| {
            Self::hold(Command::new("unshare").arg("-Urmn"), true)
                .map_err(|e| io::Error::other(format!("as root: {as_root}; as a user: {e}")))
        })
    }

    /// Another network namespace, with the same owner and mounts.
    fn sibling(&self) -> io::Result<Self> {
        Self::hold(self.command("unshare").arg("-n"), self.user)
    }

    fn hold(unshare: &mut Command, user: bool) -> io::Result<Self> {
        let mut holder = unshare
            .args(["sh", "-c", "echo held && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = holder.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        BufReader::new(stdout).read_line(&mut line)?;
        if line == "held\n" {
            return Ok(Self { holder, user });
        }
        Err(io::Error::other(said(&holder.wait_with_output()?)))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// A program that will run inside.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        if self.user {
            command.args(["-U", "--preserve-credentials"]);
        }
        command.args(["-t", &self.pid().to_string(), "-m", "-n", "--"]).arg(program);
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command
    }

    /// Runs a shell script inside, to its end.
    pub(crate) fn shell(&self, script: &str) -> io::Result<String> {
        let output = self.command("sh").args(["-euc", script]).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(io::Error::other(format!("{script}\n{}", said(&output))))
    }

    /// Starts a helper process inside: this test binary, in another role.
    pub(crate) fn helper(&self, role: &str) -> Helper {
        let mut child = self
            .command(env::current_exe().unwrap())
            .args([role::TEST, "--exact", "--nocapture", "--test-threads=1"])
            .env(role::VARIABLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut helper = Helper { child, stdin, stdout: BufReader::new(stdout) };
        assert_eq!(helper.answer(), json!("ready"));
        helper
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// A helper process: one JSON value a line each way.
pub(crate) struct Helper {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Helper {
    /// Of the process that `nsenter` became.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.stdin, "{question}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> Value {
        loop {
            let mut line = String::new();
            let read = self.stdout.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "the helper process ended");
            // The test runner writes lines of its own around the answers.
            if let Some((_, answer)) = line.split_once(role::ANSWER) {
                return serde_json::from_str(answer).unwrap();
            }
        }
    }

    /// Payload bytes and connections that the world saw at an address, any port.
    pub(crate) fn arrived(&mut self, ip: &str) -> (u64, u64) {
        let ip: IpAddr = ip.parse().unwrap();
        let counts = self.ask(&json!("counts"));
        let mut sum = (0, 0);
        for (at, seen) in counts.as_object().unwrap() {
            let at: SocketAddr = at.split_once(' ').unwrap().1.parse().unwrap();
            if at.ip() == ip {
                sum.0 += seen["bytes"].as_u64().unwrap();
                sum.1 += seen["connections"].as_u64().unwrap();
            }
        }
        sum
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `ip:port`, with brackets where they belong.
pub(crate) fn at(ip: &str, port: u16) -> String {
    SocketAddr::new(ip.parse().unwrap(), port).to_string()
}

/// Tries TCP and UDP to every address of the world, with payload, from the client's namespace.
pub(crate) fn shout(client: &mut Helper) {
    // Eight zeros: the world's exchange is asked to send nothing.
    let payload = role::hex(b"\0\0\0\0\0\0\0\0 payload that must not leave");
    for ip in [PERMITTED, REFUSED].concat() {
        for port in [443, role::EXCHANGE] {
            let to = at(ip, port);
            client.ask(&json!({"do": "udp", "to": to, "hex": payload, "patience_ms": 100}));
            client.ask(&json!({"do": "send", "to": to, "hex": payload, "patience_ms": 300}));
        }
    }
}

/// Payload bytes that arrived at each of [`PERMITTED`], then of [`REFUSED`].
pub(crate) fn bytes_in_the_world(world: &mut Helper) -> Vec<u64> {
    [PERMITTED, REFUSED].concat().into_iter().map(|ip| world.arrived(ip).0).collect()
}

/// Puts the program at a path, by another process: what is forked here at that moment would have the file
/// open for writing, and nobody could run it (ETXTBSY).
pub(crate) fn install(at: &Path) {
    let program = env!("CARGO_BIN_EXE_schengate");
    let done = Command::new("install").args(["-m", "755", program]).arg(at).status().unwrap();
    assert!(done.success(), "{}", at.display());
}

/// What a program wrote, both streams.
pub(crate) fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    format!("{}: {}", output.status, String::from_utf8_lossy(&both))
}

/// Whether a program can be found; in CI (`SCHENGATE_CI`) it must be.
pub(crate) fn has(program: &str) -> bool {
    let found = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .any(|directory| Path::new(&directory).join(program).exists());
    assert!(found || env::var_os("SCHENGATE_CI").is_none(), "{program} is needed here");
    found
}

/// Asks until there is an answer; the one place in these tests that sleeps, for 20 s at most.
pub(crate) fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..400 {
        if let Some(answer) = ask() {
            return answer;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("waited in vain until {what}");
}
