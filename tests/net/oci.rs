//! The image, run by `runc` beside an application: in one network namespace with it, as in a pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::lab::role::hex;
use crate::lab::{
    self, ADMIN, Helper, Lab, PERMITTED, REFUSED, Space, at, bytes_in_the_world, has, lab, said,
    shout, wait_until,
};

/// The user of the image, as packaging/oci/build has it.
const USER: u32 = 65532;

/// What the image runs by itself.
const RUN: [&str; 3] = ["run", "--config", "/etc/schengate/policy.toml"];

/// Bytes that all blobs of the image may have.
const IMAGE_MAX: u64 = 30_000_000;

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", said(&output));
}

/// Builds the image of the program that is tested, and unpacks it: the folder of a bundle.
fn image(folder: &Path) -> PathBuf {
    let (program, image) = (folder.join("schengate"), folder.join("image"));
    lab::install(&program);
    run("strip", &[program.to_str().unwrap()]);
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/oci/build");
    run(build.to_str().unwrap(), &[program.to_str().unwrap(), image.to_str().unwrap()]);
    let blobs = fs::read_dir(image.join("blobs/sha256")).unwrap();
    let size: u64 = blobs.map(|blob| blob.unwrap().metadata().unwrap().len()).sum();
    assert!(size < IMAGE_MAX, "the image has {size} bytes");
    let bundle = folder.join("bundle");
    let named = format!("{}:latest", image.display());
    run("umoci", &["unpack", "--image", &named, bundle.to_str().unwrap()]);
    bundle
}

/// A container of the image in the pod, as its manifest has it: no right but those that are named, a root
/// that nobody writes to.
struct Container {
    child: Child,
    runtime: PathBuf,
    name: &'static str,
}

impl Container {
    fn run(
        pod: &Space,
        (folder, bundle): (&Path, &Path),
        name: &'static str,
        (user, rights): (u32, &[&str]),
        arguments: &[&str],
    ) -> Self {
        let mut config: Value =
            serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap();
        let process = &mut config["process"];
        process["terminal"] = json!(false);
        process["noNewPrivileges"] = json!(true);
        process["user"] = json!({"uid": user, "gid": user});
        process["args"] = [&["/usr/bin/schengate"], arguments].concat().into();
        let sets =
            ["bounding", "effective", "permitted"].map(|set| (set.to_owned(), json!(rights)));
        process["capabilities"] = Value::Object(sets.into_iter().collect());
        config["root"] = json!({"path": bundle.join("rootfs"), "readonly": true});
        let network = format!("/proc/{}/ns/net", pod.pid());
        for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
            if namespace["type"] == "network" {
                namespace["path"] = json!(network);
            }
        }
        config["mounts"].as_array_mut().unwrap().push(json!({
            "destination": "/etc/schengate/policy.toml",
            "type": "bind",
            "source": folder.join("policy.toml"),
            "options": ["bind", "ro"],
        }));
        let own = folder.join(name);
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("config.json"), config.to_string()).unwrap();
        let runtime = folder.join("runc");
        let log = fs::File::create(own.join("log")).unwrap();
        let child = Command::new("runc")
            .arg("--root")
            .arg(&runtime)
            .args(["run", "--bundle"])
            .arg(&own)
            .arg(format!("schengate-{}-{name}", pod.pid()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, runtime, name }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.runtime.with_file_name(self.name).join("log")).unwrap()
    }

    /// What `/proc/PID/status` says under a name, of the process in it.
    fn status(&self, pod: &Space, key: &str) -> String {
        let name = format!("schengate-{}-{}", pod.pid(), self.name);
        let runc = Command::new("runc")
            .arg("--root")
            .arg(&self.runtime)
            .args(["state", &name])
            .output()
            .unwrap();
        let state: Value = serde_json::from_slice(&runc.stdout).unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", state["pid"])).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
        line.unwrap().to_owned()
    }

    fn kill(&mut self, pod: &Space) {
        let name = format!("schengate-{}-{}", pod.pid(), self.name);
        let delete = ["delete", "--force", &name];
        Command::new("runc").arg("--root").arg(&self.runtime).args(delete).output().ok();
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Takes back what a test that fails would leave.
struct Killed<'lab>(Container, &'lab Space);

impl Drop for Killed<'_> {
    fn drop(&mut self) {
        self.0.kill(self.1);
    }
}

fn can_run() -> bool {
    let uid = Command::new("id").arg("-u").output();
    let is_root = uid.is_ok_and(|output| output.stdout == b"0\n");
    let is_there = ["runc", "umoci", "strip", "nft"].into_iter().all(has);
    if !(is_root && is_there) {
        assert!(std::env::var_os("SCHENGATE_CI").is_none(), "it needs root, runc and umoci");
        eprintln!("SKIPPED: it needs root, runc and umoci");
    }
    is_root && is_there
}

/// Bytes that arrived at the permitted and at the refused address while something was done.
fn arrived(world: &mut Helper, act: impl FnOnce()) -> [u64; 2] {
    let sides = |seen: Vec<u64>| [seen[0] + seen[1], seen[2] + seen[3]];
    let before = sides(bytes_in_the_world(world));
    act();
    let after = sides(bytes_in_the_world(world));
    [after[0] - before[0], after[1] - before[1]]
}

fn send(app: &mut Helper, ip: &str) {
    let payload = hex(b"\0\0\0\0\0\0\0\0 what an application sends");
    let to = at(ip, lab::role::EXCHANGE);
    app.ask(&json!({"do": "send", "to": to, "hex": payload, "patience_ms": 2000}));
}

#[test]
fn a_sidecar_of_the_image_judges_its_pod_and_killed_lets_nothing_leave() {
    if !can_run() {
        return;
    }
    let Some(lab) = lab("the image") else { return };
    let Lab { gateway: pod, world, .. } = &lab;
    let folder = tempfile::tempdir().unwrap();
    let bundle = image(folder.path());
    for shell in ["bin/sh", "usr/bin/sh", "usr/bin/bash", "usr/bin/env"] {
        assert!(!bundle.join("rootfs").join(shell).exists(), "{shell} is in the image");
    }
    let policy = format!(
        "schema = 1\n[policy]\npermit = ['FR']\n[admin]\naddress = '{ADMIN}'\n{}\
         [[listen]]\nmode = 'redirect'\naddress = '[::]:15002'\npeek_timeout = '100ms'\n",
        lab::places()
    );
    fs::write(folder.path().join("policy.toml"), policy).unwrap();
    let places = (folder.path(), bundle.as_path());

    let up = ["capture", "up", "--host", "--user", "65532"];
    let mut init = Container::run(pod, places, "init", (0, &["CAP_NET_ADMIN"]), &up);
    let status = init.child.wait().unwrap();
    assert!(status.success(), "{status}: {}", init.said());

    let gateway = Container::run(pod, places, "gateway", (USER, &[]), &RUN);
    let mut gateway = Killed(gateway, pod);
    let page = format!("http://{ADMIN}/healthz");
    wait_until("the gateway in its container answers", || {
        let output = pod.command("curl").args(["-sf", "-m", "5", &page]).output().unwrap();
        if let Some(status) = gateway.0.child.try_wait().unwrap() {
            panic!("{status}: {}", gateway.0.said());
        }
        output.status.success().then_some(())
    });
    assert_eq!(gateway.0.status(pod, "CapEff"), "0".repeat(16));
    assert_eq!(gateway.0.status(pod, "CapBnd"), "0".repeat(16));
    assert_eq!(gateway.0.status(pod, "NoNewPrivs"), "1");
    assert!(gateway.0.status(pod, "Uid").starts_with(&USER.to_string()));

    let (mut seen, mut app) = (world.helper("world"), pod.helper("client"));
    let permitted = arrived(&mut seen, || send(&mut app, PERMITTED[0]));
    assert!(permitted[0] > 20 && permitted[1] == 0, "{permitted:?} {}", gateway.0.said());
    let refused = arrived(&mut seen, || send(&mut app, REFUSED[0]));
    assert_eq!(refused, [0, 0]);

    gateway.0.kill(pod);
    assert_eq!(arrived(&mut seen, || shout(&mut app)), [0, 0], "the gateway is killed");
    // The measure itself: without the rules everything arrives.
    pod.shell("nft delete table inet schengate").unwrap();
    let open = arrived(&mut seen, || shout(&mut app));
    assert!(open.iter().all(|bytes| *bytes > 100), "{open:?}");
}
