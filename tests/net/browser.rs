//! What a person sees, in a real browser: walked with a keyboard alone, and held to the rules of
//! accessibility (axe-core). `tests/browser` has the scripts.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::lab::role::SILENCE;
use crate::lab::{self, Helper, Lab, PERMITTED, REFUSED, at, has, lab, said, wait_until};

const PROXY: &str = "127.0.0.1:3128";
const BROWSER: &str = "chromium-headless-shell";

fn policy(directory: &Path) -> String {
    let (places, admin) = (lab::places(), lab::ADMIN);
    format!(
        "schema = 1
[policy]
permit = ['FR']
permit_law = ['FR', 'DE']
contact = 'data-protection@clinic.example'
ask_url = 'https://intranet.clinic.example/egress'
[admin]
address = '{admin}'
[log]
connections = 'none'
[audit]
directory = '{}'
[[group]]
name = 'imaging'
clients = ['10.40.0.0/16']
permit = ['FR', 'DE']
[[rule]]
name = 'no'
host = ['*.refused.example']
action = 'block'
[[rule]]
name = 'updates'
to = ['198.51.100.200/32']
action = 'allow'
owner = 'operations'
reason = 'no patient data'
basis = 'Art. 49(1)(c) GDPR'
until = 2099-12-31
{places}
[[listen]]
mode = 'tproxy'
address = '[::]:15001'
peek_timeout = '50ms'
[[listen]]
mode = 'proxy'
address = '{PROXY}'
",
        directory.display()
    )
}

/// The folder with the packages of tests/browser; `None`, after saying why, where something is missing.
fn tools() -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/browser");
    let missing = if !tools.join("node_modules/axe-core").exists() {
        "npm's axe-core and playwright-core (.ci/run installs them)"
    } else if let Some(missing) = ["node", "curl", BROWSER].into_iter().find(|it| !has(it)) {
        missing
    } else {
        return Some(tools);
    };
    assert!(std::env::var_os("SCHENGATE_CI").is_none(), "not installed: {missing}");
    eprintln!("SKIPPED: not installed: {missing}");
    None
}

/// Where the browser is: whoever starts it wants the whole path.
fn browser() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).map(|folder| folder.join(BROWSER)).find(|path| path.exists())
}

/// A gateway that has refused something and has live connections, its pages, and what keeps them so.
struct Seen<'lab> {
    plan: Value,
    _gateway: lab::Gateway<'lab>,
    _helpers: [Helper; 2],
}

fn seen(lab: &Lab) -> Seen<'_> {
    let directory = lab.write("policy", "").with_file_name("audit");
    let (world, mut client) = (lab.world.helper("world"), lab.client.helper("client"));
    let gateway = lab.start_gateway(&policy(&directory));
    gateway.capture();
    let crowd = |ip, count| json!({"do": "crowd", "to": at(ip, SILENCE), "count": count});
    assert_eq!(client.ask(&crowd(PERMITTED[0], 40)), 40);
    assert_eq!(client.ask(&crowd(REFUSED[0], 30)), 0);
    let curl = |arguments: &[&str]| {
        let mut curl = lab.gateway.command("curl");
        let ran = curl.args(["-sS", "-m", "20", "--noproxy", "none"]).args(arguments).output();
        String::from_utf8(ran.unwrap().stdout).unwrap()
    };
    let url = "http://a.refused.example/";
    let refusal = curl(&["-x", PROXY, "-H", "Accept: text/html", url]);
    assert!(refusal.contains("<html"), "{refusal}");
    let refusal = lab.write("refusal.html", &refusal);
    let admin = format!("http://{}", lab::ADMIN);
    let event = wait_until("the refusals are listed", || {
        let told: Value =
            serde_json::from_str(&curl(&[&format!("{admin}/api/v1/refusals")])).ok()?;
        let all = told["refusals"].as_array()?;
        (all.len() > 30).then(|| all[0]["id"].as_str().map(str::to_owned))?
    });
    let report = |language: &str| {
        let to = directory.with_file_name(format!("{language}.html"));
        wait_until("the register has what was refused", || {
            let mut command = lab.gateway.command(env!("CARGO_BIN_EXE_schengate"));
            command.args(["report", "--quick", "--lang", language, "--output"]).arg(&to);
            let ran = command.arg("-d").arg(&directory).arg("--config").arg(gateway.config());
            assert!(ran.output().unwrap().status.success());
            fs::read_to_string(&to).unwrap().contains("id=\"r2\"").then_some(())
        });
        format!("file://{}", to.display())
    };
    let plan = json!({
        "browser": browser(),
        "refused": "b.refused.example",
        "permitted": at(PERMITTED[0], 443),
        "pages": {
            "page": format!("{admin}/"),
            "event": format!("{admin}/event/{event}"),
            "report": report("en"),
            "rapport": report("fr"),
            "refusal": format!("file://{}", refusal.display()),
        },
    });
    Seen { plan, _gateway: gateway, _helpers: [world, client] }
}

/// Runs a script of tests/browser over the pages.
fn look(lab: &Lab, tools: &Path, script: &str) {
    let seen = seen(lab);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let mut node = lab.gateway.command("node");
    let ran = node.arg(folder.join(script)).arg(tools).arg(seen.plan.to_string()).output();
    let ran = ran.unwrap();
    println!("{}", said(&ran));
    assert!(ran.status.success(), "{script}");
}

#[test]
fn every_control_is_reached_and_used_with_a_keyboard_alone() {
    let Some(tools) = tools() else { return };
    let Some(lab) = lab("browser_keyboard") else { return };
    look(&lab, &tools, "keyboard.mjs");
}

#[test]
fn a_checker_of_accessibility_finds_nothing_on_any_page() {
    let Some(tools) = tools() else { return };
    let Some(lab) = lab("browser_accessibility") else { return };
    look(&lab, &tools, "accessibility.mjs");
}
