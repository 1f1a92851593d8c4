//! `schengate exec` with what people run: curl, git, cargo, npm, pip, apt, a browser. Each is looked on first,
//! and what it proposes then is what the same run needs where the policy enforces.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::exec::{Scene, row};
use crate::lab::{has, said};

/// Serves over TLS, from files that it makes, what each of them fetches: a page, a repository of git, a sparse
/// registry of cargo's, one of npm's, an index of Python's, a repository of apt's.
const DEPOT: &str = r#"
import gzip, hashlib, http.server, io, json, os, socket, ssl, subprocess, sys, tarfile, zipfile
directory, certificate, key = sys.argv[1:4]
log = open(sys.argv[4], 'a')
HOME = 'https://refused.example:8443'
os.makedirs(directory, exist_ok=True); os.chdir(directory)
def put(path, data):
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    with open(path, 'wb') as file: file.write(data if isinstance(data, bytes) else data.encode())
def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w:gz') as archive:
        for name, text in files.items():
            about = tarfile.TarInfo(name); about.size = len(text); archive.addfile(about, io.BytesIO(text.encode()))
    return out.getvalue()
put('page.html', '<p id=p>nothing</p><script>fetch("/greeting").then(a => a.text()).then(t => p.textContent = t)</script>')
put('greeting', 'hello from the depot')
# git: a repository as files.
run = lambda *words: subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, 'GIT_CONFIG_GLOBAL': '/dev/null', 'GIT_AUTHOR_NAME': 'a', 'GIT_AUTHOR_EMAIL': 'a@b', 'GIT_COMMITTER_NAME': 'a', 'GIT_COMMITTER_EMAIL': 'a@b'})
run('git', 'init', '-q', 'work'); put('work/file', 'of the repository\n'); run('git', '-C', 'work', 'add', 'file'); run('git', '-C', 'work', 'commit', '-qm', 'first')
run('git', 'clone', '-q', '--bare', 'work', 'repo.git'); run('git', '-C', 'repo.git', 'update-server-info')
# cargo: a sparse registry.
crate = tar({'lab-crate-1.0.0/Cargo.toml': '[package]\nname = "lab-crate"\nversion = "1.0.0"\nedition = "2021"\n', 'lab-crate-1.0.0/src/lib.rs': ''})
put('cargo/config.json', json.dumps({'dl': HOME + '/crates/{crate}-{version}.crate'}))
put('cargo/la/b-/lab-crate', json.dumps({'name': 'lab-crate', 'vers': '1.0.0', 'deps': [], 'cksum': hashlib.sha256(crate).hexdigest(), 'features': {}, 'yanked': False}) + '\n')
put('crates/lab-crate-1.0.0.crate', crate)
# npm
package = tar({'package/package.json': json.dumps({'name': 'lab-package', 'version': '1.0.0'}), 'package/index.js': ''})
put('npm-files/lab-package-1.0.0.tgz', package)
put('npm/lab-package', json.dumps({'name': 'lab-package', 'dist-tags': {'latest': '1.0.0'}, 'versions': {'1.0.0': {'name': 'lab-package', 'version': '1.0.0', 'dist': {'tarball': HOME + '/npm-files/lab-package-1.0.0.tgz', 'shasum': hashlib.sha1(package).hexdigest()}}}}))
# pip
wheel = io.BytesIO()
with zipfile.ZipFile(wheel, 'w') as archive:
    archive.writestr('lab_wheel.py', ''); archive.writestr('lab_wheel-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\nName: lab-wheel\nVersion: 1.0\n')
    archive.writestr('lab_wheel-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\nGenerator: lab\nRoot-Is-Purelib: true\nTag: py3-none-any\n'); archive.writestr('lab_wheel-1.0.dist-info/RECORD', '')
put('wheels/lab_wheel-1.0-py3-none-any.whl', wheel.getvalue())
put('simple/lab-wheel/index.html', '<!DOCTYPE html><a href="/wheels/lab_wheel-1.0-py3-none-any.whl">lab_wheel-1.0-py3-none-any.whl</a>')
# apt: a flat repository with one package.
control = 'Package: lab-package\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@b>\nDescription: of the laboratory\n'
put('deb/DEBIAN/control', control); os.chmod('deb', 0o755); os.chmod('deb/DEBIAN', 0o755)
os.makedirs('apt', exist_ok=True); run('dpkg-deb', '-b', 'deb', 'apt/lab-package_1.0_all.deb')
deb = open('apt/lab-package_1.0_all.deb', 'rb').read()
put('apt/Packages', control + 'Filename: ./lab-package_1.0_all.deb\nSize: %d\nSHA256: %s\n\n' % (len(deb), hashlib.sha256(deb).hexdigest()))
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, form, *words): print(form % words, file=log, flush=True)
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0); super().server_bind()
    def get_request(self):
        plain, whence = self.socket.accept(); plain.settimeout(20)
        return tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), whence
    def handle_error(self, request, whence): pass
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); tls.load_cert_chain(certificate, key)
server = Server(('::', 8443), Handler)
print('ready', flush=True)
server.serve_forever()
"#;

/// The world with the depot in it, abroad.
struct Depot {
    scene: Scene,
    server: Child,
    log: PathBuf,
    certificate: PathBuf,
}

impl Depot {
    fn start(test: &str) -> Option<Self> {
        let scene = Scene::start(test, "[names]\nbinding = \"verify\"\n")?;
        let own = rcgen::generate_simple_self_signed(["refused.example".to_owned()]).unwrap();
        let key = scene.lab.write("key.pem", &own.signing_key.serialize_pem());
        let certificate = scene.lab.write("certificate.pem", &own.cert.pem());
        let script = scene.lab.write("depot.py", DEPOT);
        let log = scene.path("depot.log");
        let mut server = scene
            .lab
            .world
            .command("python3")
            .arg(script)
            .arg(scene.path("depot"))
            .args([&certificate, &key, &log])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Some(Self { scene, server, log, certificate })
    }

    /// Requests that came.
    fn served(&self) -> usize {
        fs::read_to_string(&self.log).unwrap().lines().count()
    }

    /// Runs a script of a shell: looking on, by the policy as it is, and by what was proposed. It is given an
    /// empty directory each time, and says so on its output where it has what it came for.
    fn round_trip(&mut self, script: &str, fetched: &str) {
        let proposed = self.scene.path("proposed.toml");
        let propose = format!("--propose={}", proposed.display());
        let certificate = self.certificate.display().to_string();
        // Whoever runs the tests may have told such programs whom to trust.
        let trust = ["GIT_SSL_CAINFO", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"]
            .map(|name| format!("export {name}={certificate}\n"))
            .concat();
        let script = format!("{trust}{}", script.replace("CERTIFICATE", &certificate));
        let mut turn = 0;
        let mut run = |scene: &Scene, options: &[&str]| {
            turn += 1;
            let place = scene.path(&format!("turn-{turn}"));
            fs::create_dir(&place).unwrap();
            let script = format!("export HOME={0}; cd {0} || exit 9\n{script}", place.display());
            scene.run(options, &["sh", "-c", &script])
        };
        let (output, summary) = run(&self.scene, &["--observe", &propose]);
        let text = said(&output);
        assert!(output.status.success() && text.contains(fetched), "looked on: {text}");
        let went = row(&summary, "went", "refused.example");
        assert_eq!((&went["would"], &went["reason"]), (&"block".into(), &"outside".into()));
        assert!(summary["would_be_refused"].as_u64().unwrap() > 0, "{summary:#}");
        let before = self.served();
        assert!(before > 0);
        let (output, summary) = run(&self.scene, &[]);
        let text = said(&output);
        assert!(!output.status.success() && !text.contains(fetched), "refused: {text}");
        assert_eq!(row(&summary, "refused", "refused.example")["reason"], "outside");
        assert_eq!(self.served(), before, "refused: {text}");
        self.scene.policy = proposed;
        let (output, summary) = run(&self.scene, &[]);
        let text = said(&output);
        assert!(output.status.success() && text.contains(fetched), "proposed: {text}");
        assert_eq!(row(&summary, "went", "refused.example")["reason"], "rule");
        assert_eq!(summary["refused"], serde_json::json!([]), "{summary:#}");
        assert!(self.served() > before);
    }
}

impl Drop for Depot {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

/// The round trip of a program, where it is here.
fn with(test: &str, program: &str, script: &str, fetched: &str) {
    if has("python3")
        && has(program)
        && let Some(mut depot) = Depot::start(test)
    {
        depot.round_trip(script, fetched);
    }
}

#[test]
fn r01_curl() {
    let script =
        "exec curl -sS --max-time 20 --cacert CERTIFICATE https://refused.example:8443/greeting";
    with("r01", "curl", script, "hello from the depot");
}

#[test]
fn r02_git_clones_over_https() {
    let script = "export GIT_CONFIG_GLOBAL=/dev/null
git -c http.sslCAInfo=CERTIFICATE clone -q https://refused.example:8443/repo.git clone && cat clone/file";
    with("r02", "git", script, "of the repository");
}

#[test]
fn r03_cargo_fetches_from_a_registry() {
    // The program itself, which a front of the same name (rustup) would look for below HOME.
    let cargo = env!("CARGO");
    let script = format!(
        "export CARGO_HOME=$PWD/cargo-home; mkdir -p src .cargo; : >src/lib.rs
printf '[package]\nname = \"a\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[dependencies]\nlab-crate = {{ version = \"1\", registry = \"lab\" }}\n' >Cargo.toml
printf '[registries.lab]\nindex = \"sparse+https://refused.example:8443/cargo/\"\n[http]\ncainfo = \"CERTIFICATE\"\n[net]\nretry = 0\n' >.cargo/config.toml
{cargo} fetch -q && ls cargo-home/registry/cache/*"
    );
    with("r03", cargo, &script, "lab-crate-1.0.0.crate");
}

#[test]
fn r04_npm_installs_a_package() {
    let script = "echo '{\"name\":\"a\",\"version\":\"1.0.0\"}' >package.json
npm install --no-audit --no-fund --no-update-notifier --fetch-retries 0 --cache cache --cafile CERTIFICATE \
    --registry https://refused.example:8443/npm/ lab-package && ls node_modules/lab-package/package.json";
    // A distribution's package of it has half of all that runs on Node behind it: CI does not insist on it.
    if Path::new("/usr/bin/npm").exists() {
        with("r04", "npm", script, "node_modules/lab-package/package.json");
    } else {
        println!("LEFT OUT: npm, which is not installed");
    }
}

#[test]
fn r05_pip_downloads_a_wheel() {
    let script = "python3 -m venv venv && venv/bin/python -m pip download --isolated --no-cache-dir --retries 0 -q \
    --disable-pip-version-check --no-deps -d wheels --cert CERTIFICATE \
    --index-url https://refused.example:8443/simple/ lab-wheel && ls wheels";
    with("r05", "python3", script, "lab_wheel-1.0-py3-none-any.whl");
}

#[test]
fn r06_apt_downloads_a_package() {
    let script = "mkdir -p lists/partial cache/archives/partial
echo 'deb [trusted=yes] https://refused.example:8443/apt ./' >sources.list
options=\"-q -o APT::Sandbox::User=root -o Dir::State=$PWD -o Dir::State::status=/var/lib/dpkg/status
    -o Dir::Cache=$PWD/cache -o Dir::Etc::sourcelist=$PWD/sources.list -o Dir::Etc::sourceparts=/nowhere
    -o Acquire::https::CaInfo=CERTIFICATE -o Acquire::Retries=0\"
apt-get $options update && apt-get $options download lab-package && ls";
    with("r06", "apt-get", script, "lab-package_1.0_all.deb");
}

#[test]
fn r07_a_browser_loads_a_page_and_what_it_asks_for() {
    let browsers = ["chromium-headless-shell", "chromium", "google-chrome"];
    let browser = browsers.into_iter().find(|name| Path::new("/usr/bin").join(name).exists());
    let Some(browser) = browser else {
        println!("LEFT OUT: a browser, for none of {browsers:?} is installed");
        return;
    };
    let script = format!(
        "key=$(openssl x509 -in CERTIFICATE -noout -pubkey | openssl pkey -pubin -outform der |
    openssl dgst -sha256 -binary | openssl base64)
{browser} --headless --no-sandbox --disable-gpu --virtual-time-budget=20000 --dump-dom \
    --ignore-certificate-errors-spki-list=$key --user-data-dir=$PWD/profile \
    https://refused.example:8443/page.html >page && cat page && grep -q 'hello from the depot' page"
    );
    with("r07", "openssl", &script, "hello from the depot");
}
