//! The API of the admin listener beside real connections: listed in pages, added up, explained, ended.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::audit::records;
use crate::lab::role::SILENCE;
use crate::lab::{self, Lab, PERMITTED, REFUSED, at, lab, wait_until};
use crate::schema::{fits, of_answer, openapi};

fn policy(directory: &std::path::Path) -> String {
    let (places, admin) = (lab::places(), lab::ADMIN);
    format!(
        "schema = 1
[policy]
permit = ['FR']
[admin]
address = '{admin}'
[audit]
directory = '{}'
[log]
connections = 'none'
{places}
[[listen]]
mode = 'tproxy'
address = '[::]:15001'
max_connections_per_client = 0
",
        directory.display()
    )
}

/// Status and body of a request to the API, and how long it took.
fn ask(lab: &Lab, method: &str, path: &str, more: &[&str]) -> (u16, Value, Duration) {
    let url = format!("http://{}/api/v1/{path}", lab::ADMIN);
    let ran = lab
        .gateway
        .command("curl")
        .args(["-s", "--noproxy", "*", "--max-time", "20", "-X", method, "-w"])
        .arg("\n%{http_code} %{time_starttransfer}")
        .args(more)
        .arg(url)
        .output()
        .unwrap();
    let text = String::from_utf8(ran.stdout).unwrap();
    let (body, last) = text.trim_end().rsplit_once('\n').unwrap();
    let (status, time) = last.split_once(' ').unwrap();
    let time = Duration::from_secs_f64(time.parse().unwrap());
    (status.parse().unwrap(), serde_json::from_str(body).unwrap(), time)
}

fn get(lab: &Lab, path: &str) -> Value {
    let (status, answer, _) = ask(lab, "GET", path, &[]);
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

#[test]
fn live_connections_are_listed_once_in_pages_and_one_is_ended_with_its_own_cause() {
    let Some(lab) = lab("api_live") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (_world, mut client) = (lab.world.helper("world"), lab.client.helper("client"));
    let mut gateway = lab.start_gateway(&policy(dir.path()));
    gateway.capture();
    let count = 300;
    let crowd = json!({"do": "crowd", "to": at(PERMITTED[0], SILENCE), "count": count});
    assert_eq!(client.ask(&crowd), count);
    let refused = json!({"do": "crowd", "to": at(REFUSED[0], SILENCE), "count": 3});
    assert_eq!(client.ask(&refused), 0);
    let document = openapi();
    let schema = of_answer(&document, "/connections", "get");
    let (mut ids, mut page) = (HashSet::new(), "connections?limit=70&order=up".to_owned());
    loop {
        let answer = get(&lab, &page);
        fits(&document, schema, &answer).unwrap();
        let rows = answer["connections"].as_array().unwrap();
        assert_eq!((&answer["live"], &answer["matching"]), (&count.into(), &count.into()));
        assert!(rows.len() <= 70);
        for row in rows {
            assert_eq!(row["destination"], at(PERMITTED[0], SILENCE));
            assert_eq!((&row["location"], &row["reason"]), (&json!(["FR"]), &json!("permitted")));
            assert!(ids.insert(row["id"].as_str().unwrap().to_owned()), "twice: {row}");
        }
        let Some(next) = answer["next"].as_str() else { break };
        page = format!("connections?limit=70&order=up&after={next}");
    }
    assert_eq!(ids.len(), 300);
    let top = get(&lab, "top?by=country");
    fits(&document, of_answer(&document, "/top", "get"), &top).unwrap();
    assert_eq!(
        (&top["rows"][0]["key"], &top["rows"][0]["connections"]),
        (&json!("FR"), &json!(300))
    );
    let refusals = wait_until("the refusals are listed", || {
        let answer = get(&lab, "refusals?reason=outside&country=US");
        (answer["refusals"].as_array().unwrap().len() == 3).then_some(answer)
    });
    let event = refusals["refusals"][0]["id"].as_str().unwrap();
    let told = get(&lab, &format!("events/{event}"));
    fits(&document, of_answer(&document, "/events/{id}", "get"), &told).unwrap();
    assert_eq!(
        (&told["today"]["verdict"], &told["today"]["reason"]),
        (&json!("block"), &json!("outside"))
    );
    // The id on the button of the page, and the path and the header of its script.
    let read = |path: &str| {
        let mut curl = lab.gateway.command("curl");
        let ran = curl.args(["-s", "--noproxy", "*"]).arg(format!("http://{}{path}", lab::ADMIN));
        String::from_utf8(ran.output().unwrap().stdout).unwrap()
    };
    let (page, script) = (read("/"), read("/page.js"));
    let buttons: Vec<_> = page.split("data-kill=\"").skip(1).collect();
    let shown: Vec<_> = buttons.iter().filter_map(|button| button.split('"').next()).collect();
    assert_eq!(shown.len(), 25);
    assert!(shown.iter().all(|id| ids.contains(*id)), "{shown:?}");
    for word in [
        "\"/api/v1/connections/\" + encodeURIComponent(target.dataset.kill)",
        "method: \"DELETE\", headers: { \"X-Schengate-Request\": \"1\" }",
    ] {
        assert!(script.contains(word), "{word}");
    }
    let victim = shown.first().unwrap().to_string();
    let one = format!("connections/{victim}");
    let row = get(&lab, &one);
    fits(&document, of_answer(&document, "/connections/{id}", "get"), &row).unwrap();
    // Without the header nothing is ended.
    assert_eq!(ask(&lab, "DELETE", &one, &[]).0, 403);
    assert_eq!(get(&lab, "connections")["live"], count);
    let header = ["-H", "X-Schengate-Request: 1"];
    let (status, answer, _) = ask(&lab, "DELETE", &one, &header);
    assert_eq!(status, 200, "{answer}");
    fits(&document, of_answer(&document, "/connections/{id}", "delete"), &answer).unwrap();
    wait_until("it is gone", || (ask(&lab, "GET", &one, &[]).0 == 404).then_some(()));
    assert_eq!(ask(&lab, "DELETE", &one, &header).0, 404, "once");
    assert_eq!(get(&lab, "connections")["live"], count - 1);
    gateway.stop();
    let records = records(dir.path());
    let killed: Vec<_> = records.iter().filter(|record| record["end"] == "killed").collect();
    assert_eq!(killed.len(), 1);
    assert_eq!(killed[0]["id"], victim.as_str());
    let by: Vec<_> = records.iter().filter(|record| record["event"] == "admin").collect();
    assert_eq!(by.len(), 1, "what was done is recorded, and by whom");
    assert_eq!((&by[0]["action"], &by[0]["connection"]), (&json!("kill"), &json!(victim)));
    assert!(by[0]["by"].as_str().unwrap().starts_with("127.0.0.1:"), "{}", by[0]);
}

#[test]
fn with_ten_thousand_connections_an_answer_is_bounded_and_everything_else_goes_on() {
    let Some(lab) = lab("api_crowd") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (_world, mut client) = (lab.world.helper("world"), lab.client.helper("client"));
    let gateway = lab.start_gateway_with(&policy(dir.path()), "ulimit -n 65536 || true;");
    gateway.capture();
    let count = 10_000.min((gateway.descriptor_limit() - 200) / 2);
    let crowd = json!({"do": "crowd", "to": at(PERMITTED[0], SILENCE), "count": count});
    assert_eq!(client.ask(&crowd), count);
    for path in [
        "state",
        "verdicts",
        "connections?limit=500&order=up",
        "connections?limit=500&host=nobody",
        "top?by=destination&limit=500",
        "top?by=client",
        "policy",
        "tables",
    ] {
        let mut times = Vec::new();
        for _ in 0..9 {
            let begun = Instant::now();
            let (status, answer, time) = ask(&lab, "GET", path, &[]);
            assert_eq!(status, 200, "{path}: {answer}");
            let size = answer.to_string().len();
            assert!(size < 500 * 1024, "{path}: {size} B");
            assert!(time <= begun.elapsed());
            times.push(time);
        }
        times.sort();
        println!("{path}: median {:?}, most {:?} with {count} connections", times[4], times[8]);
    }
    assert_eq!(get(&lab, "connections")["live"], count);
    // The data plane was not held up for good: one more goes through.
    let one = json!({"do": "crowd", "to": at(PERMITTED[0], SILENCE), "count": 1});
    assert_eq!(client.ask(&one), 1);
}
