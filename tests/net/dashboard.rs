//! The dashboard and the recording rules, asked of a real Prometheus that scraped a running gateway.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::audit_gateway::NOTED;
use crate::lab::{self, ADMIN, PERMITTED, REFUSED, Space, at, has, lab, said, wait_until};

const PROMETHEUS: &str = "127.0.0.1:9090";

fn config(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(file)
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(config("grafana/schengate.json")).unwrap()).unwrap()
}

/// Title and query of every target of every panel, with Grafana's variables filled in.
fn queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| (title, target["expr"].as_str().unwrap()))
    });
    let filled = |(title, query): (&str, &str)| {
        let query = query.replace("$__rate_interval", "10s").replace("$__range", "1m");
        (title.to_owned(), query.replace("$instance", ".*"))
    };
    targets.map(filled).collect()
}

/// Everything that a panel is of happens here: what is refused is observed, there is a waiver, a record
/// that signs, and something captured.
fn policy(directory: &Path) -> String {
    let (places, refused) = (lab::places(), REFUSED[1]);
    format!(
        "schema = 1
[policy]
mode = 'observe'
permit = ['FR']
[admin]
address = '{ADMIN}'
[audit]
directory = '{}'
checkpoint = '1s'
name = 'gateway.example'
[[rule]]
name = 'updates'
to = ['{refused}/128']
action = 'allow'
owner = 'operations'
reason = 'no patient data'
until = 2099-12-31
[[rule]]
name = 'waits for the name'
host = ['*.example.org']
action = 'block'
{places}
[[listen]]
mode = 'tproxy'
address = '[::]:15001'
peek_timeout = '100ms'
",
        directory.display()
    )
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn prometheus(space: &Space, folder: &Path) -> Ended {
    let file = folder.join("prometheus.yml");
    let text = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
         rule_files: ['{}']\n\
         scrape_configs: [{{ job_name: schengate, static_configs: [{{ targets: ['{ADMIN}'] }}] }}]\n",
        config("prometheus/recording.yml").display()
    );
    fs::write(&file, text).unwrap();
    let log = fs::File::create(folder.join("prometheus.log")).unwrap();
    let child = space
        .command("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("series").display()))
        .arg(format!("--web.listen-address={PROMETHEUS}"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Ended(child)
}

/// The samples that a query gives now; a fault of the query is a panic, no answer yet is `None`.
fn ask(space: &Space, query: &str) -> Option<Vec<f64>> {
    let output = space
        .command("curl")
        .args(["-sS", "-m", "10", "--data-urlencode", &format!("query={query}")])
        .arg(format!("http://{PROMETHEUS}/api/v1/query"))
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
    assert!(answer["status"] == "success", "{query}: {answer}");
    let samples = answer["data"]["result"].as_array()?;
    let value = |sample: &Value| sample["value"][1].as_str()?.parse::<f64>().ok();
    Some(samples.iter().filter_map(value).filter(|value| !value.is_nan()).collect())
}

#[test]
fn no_panel_of_the_dashboard_and_no_recording_rule_is_empty() {
    if !has("prometheus") {
        assert!(std::env::var_os("SCHENGATE_CI").is_none(), "prometheus is not installed");
        eprintln!("SKIPPED: prometheus is not installed");
        return;
    }
    let Some(lab) = lab("the dashboard") else { return };
    let folder = tempfile::tempdir().unwrap();
    let gateway = lab.start_gateway(&policy(&folder.path().join("audit")));
    gateway.capture();
    let mut world = lab.world.helper("audit-world");
    world.ask(&json!({}));
    let mut clients = [lab.client.helper("audit-client"), lab.client.helper("audit-client")];
    for (client, ip) in clients.iter_mut().zip([PERMITTED[0], REFUSED[0]]) {
        assert_eq!(client.ask(&json!({"to": at(ip, NOTED)})), "busy");
    }
    let _prometheus = prometheus(&lab.gateway, folder.path());
    let queries = queries();
    assert!(queries.len() > 25, "{}", queries.len());
    for (title, query) in &queries {
        wait_until(&format!("{title}: {query}"), || {
            ask(&lab.gateway, query).filter(|samples| !samples.is_empty())
        });
    }
    // A number, and not merely a series: what was refused by nobody, where it went, how long it takes.
    for query in [
        "sum(rate(schengate_would_block_total{reason=\"outside\"}[10s]))",
        "sum(increase(schengate_bytes_up_by_country_total{country=\"FR\"}[1m]))",
        "sum(increase(schengate_bytes_up_by_country_total{country=\"US\"}[1m]))",
        "schengate_waiver_expires_timestamp_seconds{rule=\"updates\"} - time()",
    ] {
        wait_until(query, || {
            ask(&lab.gateway, query).filter(|found| found.iter().any(|v| *v > 0.0))
        });
    }
    let recording = fs::read_to_string(config("prometheus/recording.yml")).unwrap();
    let names: Vec<&str> =
        recording.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    assert!(names.len() > 4, "{names:?}");
    for name in names {
        wait_until(name, || ask(&lab.gateway, name).filter(|samples| !samples.is_empty()));
    }
    // What ended is said to have ended.
    gateway.reload(&policy(&folder.path().join("audit")).replace("until = 2099", "until = 2020"));
    let ended = "schengate_waiver_expires_timestamp_seconds{rule=\"updates\"} == 0";
    wait_until(ended, || ask(&lab.gateway, ended).filter(|samples| !samples.is_empty()));
    for client in &mut clients {
        client.ask(&json!({}));
    }
}

#[test]
fn grafana_s_own_types_lose_nothing_of_the_dashboard() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tools = root.join("target/tools/python/bin/python");
    let python = if tools.exists() { tools } else { PathBuf::from("python3") };
    let has_types = Command::new(&python).args(["-c", "import grafana_foundation_sdk"]).output();
    if !has_types.is_ok_and(|output| output.status.success()) {
        let why = "PyPI's grafana-foundation-sdk is not installed (.ci/run does it)";
        assert!(std::env::var_os("SCHENGATE_CI").is_none(), "{why}");
        eprintln!("SKIPPED: {why}");
        return;
    }
    let compared = Command::new(&python)
        .arg(root.join("tests/net/grafana.py"))
        .arg(config("grafana/schengate.json"))
        .output()
        .unwrap();
    assert!(compared.status.success() && compared.stdout.is_empty(), "{}", said(&compared));
}
