//! The pictures of README.md and docs/exec.md can be made anew, by the script that made them.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use crate::lab::said;

/// The first bytes of a PNG file (W3C PNG, 5.2).
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|ran| ran.status.success())
}

#[test]
fn the_pictures_are_made_by_their_script() {
    let missing = if rustix::process::geteuid().is_root() {
        ["chromium-headless-shell", "python3", "curl"].into_iter().find(|it| !is_there(it))
    } else {
        Some("root")
    };
    if let Some(missing) = missing {
        assert!(env::var("SCHENGATE_CI").is_err(), "CI has no {missing}");
        eprintln!("SKIPPED: no {missing}");
        return;
    }
    let (to, root) = (tempfile::tempdir().unwrap(), Path::new(env!("CARGO_MANIFEST_DIR")));
    let output = Command::new(root.join("docs/pictures/make"))
        .args([env!("CARGO_BIN_EXE_schengate").as_ref(), to.path()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let of_exec = fs::read_to_string(root.join("docs/exec.md")).unwrap();
    assert!(of_exec.contains("](pictures/exec.png)"));
    for picture in ["page.png", "report.png", "refusal.png", "exec.png"] {
        let made = fs::read(to.path().join(picture)).unwrap();
        assert!(made.starts_with(PNG) && made.len() > 10_000, "{picture}: {} bytes", made.len());
        let kept = fs::read(root.join("docs/pictures").join(picture)).unwrap();
        assert!(kept.starts_with(PNG), "{picture}");
        let is_of_exec = picture == "exec.png";
        assert!(
            is_of_exec || readme.contains(&format!("docs/pictures/{picture}")),
            "{picture} in README.md"
        );
    }
}
