//! The page of the admin listener: whole without a script, of bounded size, and nothing in it is markup
//! of somebody else.

use std::process::Command;

use crate::api::{ask, policy};
use crate::gateway::{Gateway, PATIENCE};

const LOCAL: &str = "Host: localhost\r\n";

/// Texts that would be more than texts where they were not escaped.
const HOSTILE: [&str; 3] =
    ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</style><b>"];

/// A gateway whose rules, groups and owners have hostile names, and which has refused something.
fn gateway(dir: &std::path::Path) -> (Gateway, String) {
    let [_, image, style] = HOSTILE;
    let more = format!(
        "reason = '\"><img>{image}'\n\
         [[group]]\nname = '{}'\nclients = ['10.9.0.0/16']\n\
         [[rule]]\nname = 'w2 {image}'\naction = 'log'\nto = ['198.51.100.0/24']\nowner = '{image}'\n\
         until = 2999-01-01\nbasis = '{style}'\n\
         [admin]\naddress = '127.0.0.1:0'\n",
        "<b onload=x>"
    );
    let gateway = Gateway::start(&["--config", &policy(dir, &more)]);
    let headers = "Host: a.refused.example\r\nAccept: text/html\r\n";
    let (status, head, told) = ask(&gateway.proxy, "GET http://a.refused.example/", headers);
    assert_eq!(status, 451);
    assert!(!told.contains("<script"), "{told}");
    assert!(told.contains("no &lt;script&gt;alert(1)&lt;/script&gt;"), "{told}");
    let event = head.split_once("; event=").unwrap().1.split([';', '"']).next().unwrap();
    let event = event.to_owned();
    let begun = std::time::Instant::now();
    while !html(&gateway, "/").2.contains(&event) {
        assert!(begun.elapsed() < PATIENCE, "the refusal is never shown");
        std::thread::yield_now();
    }
    (gateway, event)
}

fn html(gateway: &Gateway, path: &str) -> (u16, String, String) {
    ask(&gateway.admin, &format!("GET {path}"), LOCAL)
}

/// The page as a person reads it who runs no script: the texts between the tags.
fn read(page: &str) -> String {
    let (mut text, mut inside) = (String::new(), false);
    for c in page.chars() {
        match c {
            '<' => inside = true,
            '>' => inside = false,
            _ if !inside => text.push(c),
            _ => {}
        }
    }
    text
}

#[test]
fn the_page_is_whole_without_a_script_and_small_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, event) = gateway(dir.path());
    let (status, head, page) = html(&gateway, "/");
    assert_eq!(status, 200);
    let text = read(&page);
    for word in [
        "Ready",
        "Enforcing",
        "refused: rule",
        "a.refused.example",
        &event,
        "Data may go to France (in the file: FR).",
        "w2 ",
        "embedded:country",
        "written",
        "May this client reach this name?",
    ] {
        assert!(text.contains(word), "{word} in {text}");
    }
    let policy = head.lines().find(|line| line.starts_with("content-security-policy: ")).unwrap();
    let allowed = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                   img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    assert_eq!(policy, format!("content-security-policy: {allowed}"));
    let mut all = page.len();
    for (path, kind) in [("/page.js", "text/javascript"), ("/page.css", "text/css")] {
        let (status, head, body) = html(&gateway, path);
        assert_eq!(status, 200);
        assert!(head.contains(kind), "{head}");
        all += body.len();
    }
    println!("the page, its script and its style: {all} B");
    assert!(all < 150_000, "{all} B");
    // Nothing comes from elsewhere: every address in it is its own.
    for attribute in ["src=\"", "href=\"", "action=\""] {
        for part in page.split(attribute).skip(1) {
            let own = part.starts_with('/') || part.starts_with('#') || part.starts_with("data:,");
            assert!(own, "{attribute}{}", part.split('"').next().unwrap());
        }
    }
    // What the box is asked is answered without a script.
    let (_, _, asked) = html(&gateway, "/?host=b.refused.example&client=10.0.0.1");
    assert!(read(&asked).contains("No address can make the policy let this name go."));
    let (_, _, asked) = html(&gateway, "/?to=192.0.2.9:443&by=country");
    assert!(read(&asked).contains("let go: waiver"), "{}", read(&asked));
    let (status, _, one) = html(&gateway, &format!("/event/{event}"));
    assert_eq!(status, 200);
    assert!(read(&one).contains("Trying again does not help"), "{one}");
    assert_eq!(html(&gateway, "/event/1-1").0, 404);
    assert_eq!(ask(&gateway.admin, "GET /", "Host: rebound.example\r\n").0, 421);
}

#[test]
fn names_of_others_are_texts_on_every_page() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, event) = gateway(dir.path());
    let query = "/?host=%3Cscript%3Ealert(1)%3C%2Fscript%3E&client=%22%3E%3Cimg%20src%3Dx%20onerror%3D\
                 alert(1)%3E&to=%3C%2Fstyle%3E%3Cb%3E";
    let event = format!("/event/{event}");
    for path in ["/", "/?parts=1", query, &event, "/event/%3Cscript%3Ealert(1)%3C/script%3E"] {
        let (_, _, page) = html(&gateway, path);
        for hostile in HOSTILE.iter().chain(&["<b onload", "\"><img"]) {
            assert!(!page.contains(hostile), "{hostile} in {path}: {page}");
        }
        // The one script is its own.
        assert_eq!(page.matches("<script").count(), 1, "{path}");
    }
    assert!(html(&gateway, "/").2.contains("&lt;img src=x onerror=alert(1)&gt;"));
}

#[test]
fn a_browser_runs_nothing_but_its_own_script() {
    let has = Command::new("chromium-headless-shell").arg("--version").output();
    if !has.is_ok_and(|ran| ran.status.success()) {
        assert!(std::env::var("SCHENGATE_CI").is_err(), "CI has no chromium-headless-shell");
        eprintln!("SKIPPED: no chromium-headless-shell");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (gateway, _) = gateway(dir.path());
    let ran = Command::new("chromium-headless-shell")
        .args(["--no-sandbox", "--disable-gpu", "--timeout=10000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .arg(format!("http://{}/", gateway.admin))
        .output()
        .unwrap();
    let dom = String::from_utf8(ran.stdout).unwrap();
    // The script ran, and what it was given is text as before.
    assert!(dom.contains("<html lang=\"en\" class=\"js\">"), "{dom}");
    assert!(!dom.contains("<img") && !dom.contains("<b onload"), "{dom}");
}
