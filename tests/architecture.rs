//! The tree is the architecture: who may use whom, read off the `use` lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of this crate, and which others each may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("identify", &[]),
    // Of `sys` only how memory is backed, and only in `huge_pages.rs`: see below.
    ("policy", &["identify", "sys"]),
    ("sys", &[]),
    // A command in namespaces of its own, and the sockets that lead out of them: knows of no policy.
    ("enclosure", &["sys"]),
    // Opens a few files and runs `nft` for a gateway that may do neither.
    ("broker", &["sys"]),
    // Plain data that the policy file is read into and both planes work by.
    ("settings", &["identify"]),
    // The record as evidence: of the world it knows files, and of the system a shared mapping.
    ("evidence", &["sys"]),
    ("account", &["identify", "policy", "sys", "evidence", "report"]),
    // Sockets, and who waits for them.
    ("net", &["sys"]),
    // The one way out, and what the gateway asks of its own.
    ("egress", &["identify", "policy", "account", "settings", "sys", "net", "broker"]),
    (
        "flow",
        &[
            "identify", "policy", "account", "settings", "sys", "net", "egress", "lane", "ip",
            "broker",
        ],
    ),
    // Packets in, what becomes of them out: of the connections that the kernel carries.
    ("lane", &["identify", "ip"]),
    // The headers of IP, for those who read packets.
    ("ip", &[]),
    ("inspect", &["identify", "policy", "ip"]),
    // What people read of the record: rows in, texts out.
    ("report", &["policy", "evidence"]),
    (
        "control",
        &[
            "identify", "policy", "account", "settings", "sys", "egress", "evidence", "report",
            "broker",
        ],
    ),
    // Wires the control plane to the data plane.
    (
        "service",
        &[
            "identify",
            "policy",
            "account",
            "settings",
            "sys",
            "egress",
            "evidence",
            "flow",
            "control",
            "enclosure",
            "broker",
        ],
    ),
    (
        "cli",
        &[
            "identify",
            "policy",
            "account",
            "settings",
            "sys",
            "evidence",
            "inspect",
            "report",
            "control",
            "service",
            "enclosure",
            "broker",
        ],
    ),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).expect("a folder of sources").map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .collect()
}

/// Lines of one file (CONTRIBUTING.md).
const LINES_MAX: usize = 700;

/// A file without the tests at its foot.
fn without_tests(text: &str) -> &str {
    let mut marks = text.match_indices("#[cfg(test)]\n").map(|(at, mark)| (at, at + mark.len()));
    let tests = marks.find(|&(_, behind)| {
        text[behind..].lines().next().is_some_and(|line| line.ends_with("mod tests {"))
    });
    tests.map_or(text, |(at, _)| &text[..at])
}

/// Every `crate::MODULE` that a file names, comments left out.
fn used(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    let named = |line: &str| -> Vec<String> {
        let word = |rest: &str| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned)
        };
        line.split("crate::").skip(1).filter_map(word).collect()
    };
    lines
        .flat_map(|(at, line)| named(line).into_iter().map(move |module| (at + 1, module)))
        .collect()
}

#[test]
fn no_module_uses_what_it_must_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = 0;
    for (module, allowed) in MAY_USE {
        let folder = root.join(module);
        let file = folder.with_extension("rs");
        for path in if folder.is_dir() { sources(&folder) } else { vec![file] } {
            files += 1;
            for (line, other) in used(&fs::read_to_string(&path).expect("a source file")) {
                let known = MAY_USE.iter().any(|(name, _)| *name == other);
                let fine = !known || other == *module || allowed.contains(&other.as_str());
                assert!(fine, "{}:{line}: {module} uses {other}", path.display());
            }
        }
    }
    assert!(files > 60);
}

#[test]
fn policy_asks_the_system_for_memory_and_nothing_else() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy");
    let mut asking = Vec::new();
    for path in sources(&root) {
        let text = fs::read_to_string(&path).expect("a source file");
        let named = used(&text).into_iter().any(|(_, module)| module == "sys");
        let lines = text.lines().filter(|line| line.contains("sys::"));
        asking.extend(lines.filter(|_| named).map(|line| (path.clone(), line.to_owned())));
    }
    let fine = (root.join("huge_pages.rs"), "use crate::sys::prefer_huge_pages;".to_owned());
    assert_eq!(asking, [fine]);
}

#[test]
fn unsafe_code_is_in_sys_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&root).iter().filter(|path| !path.starts_with(root.join("sys"))) {
        let text = fs::read_to_string(path).expect("a source file");
        for (at, line) in
            text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            let found = line.contains("unsafe {")
                || line.contains("unsafe fn")
                || line.contains("unsafe impl");
            assert!(!found, "{}:{}: {line}", path.display(), at + 1);
        }
    }
}

#[test]
fn the_pure_modules_do_no_input_or_output() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rooms = ["identify", "policy", "report", "lane"]
        .iter()
        .flat_map(|module| sources(&root.join(module)));
    for path in rooms.chain([root.join("service/step.rs"), root.join("ip.rs")]) {
        let text = fs::read_to_string(&path).expect("a source file");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for banned in [
            "std::fs",
            "std::io",
            "SystemTime",
            "Instant::now",
            "Timestamp::now",
            "tracing::",
            "println!",
            "tokio::",
        ] {
            assert!(!code.contains(banned), "{}: {banned}", path.display());
        }
    }
}

/// Who connects, or sends to an address of its own choice. [`WAY_OUT`] is the way out; the others are
/// none, and each has its reason.
const WAY_OUT: &str = "egress/dial.rs";
const NO_WAY_OUT: &[(&str, &str)] = &[
    ("cli/live/api.rs", "to the API of a running gateway, for a person who asks it"),
    ("flow/udp/sockets.rs", "to the client, from the address that it had sent to"),
    ("flow/udp/association.rs", "to the client of the association"),
    ("flow/udp/icmp.rs", "to the client, and of its own host alone"),
    (
        "sys/held.rs",
        "the socket of a command that is shut in, in its own namespaces and in its place",
    ),
    ("control/notify.rs", "to the service manager of this host, by the name that it gave"),
    ("control/capture/own.rs", "to an interface of its own, to see whether the capture holds"),
];

/// Whether a line of code calls `connect`, `connect_timeout` or `send_to` with an address: not where
/// it is defined, and not where nothing is given to it.
fn goes_somewhere(line: &str) -> bool {
    ["connect", "connect_timeout", "send_to"].into_iter().any(|call| {
        line.match_indices(&format!("{call}(")).any(|(at, found)| {
            let (before, behind) = (&line[..at], &line[at + found.len()..]);
            let is_whole =
                before.ends_with('.') || before.ends_with("::") || before.ends_with("try_");
            is_whole && !behind.starts_with(')')
        })
    })
}

#[test]
fn what_leaves_is_dialled_in_one_place() {
    assert!(goes_somewhere("let stream = TcpStream::connect(at).await?;"));
    assert!(goes_somewhere("socket.connect_timeout(&to, PATIENCE)?;"));
    assert!(goes_somewhere("socket.try_send_to(bytes, to)"));
    assert!(!goes_somewhere("    fn connect(mut self) -> Upgrade {"));
    assert!(!goes_somewhere("        _ if is_connect => rest.connect(),"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut going = BTreeSet::new();
    for path in sources(&root) {
        let file = path.strip_prefix(&root).expect("a file of src").to_str().expect("UTF-8");
        if file.split('/').any(|part| part == "tests" || part == "tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source file");
        let code = without_tests(&text);
        for (at, line) in code.lines().enumerate() {
            if line.trim_start().starts_with("//") || !goes_somewhere(line) {
                continue;
            }
            let known = file == WAY_OUT || NO_WAY_OUT.iter().any(|(other, _)| *other == file);
            assert!(known, "src/{file}:{}: goes out beside {WAY_OUT}: {line}", at + 1);
            going.insert(file.to_owned());
        }
    }
    for file in [WAY_OUT].iter().chain(NO_WAY_OUT.iter().map(|(file, _)| file)) {
        assert!(going.contains(*file), "src/{file} goes nowhere any more");
    }
}

/// The rooms of `control/data`, each of which uses only those before it.
const DATA_ROOMS: &[&str] = &[
    "pack_key",
    "settings",
    "model",
    "providers",
    "formats",
    "facts",
    "services",
    "embedded",
    "load",
    "coverage",
    "diff",
    "list",
    "verify",
    "trust",
];

#[test]
fn the_rooms_of_the_data_use_only_those_before_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/control/data");
    let place = |room: &str| DATA_ROOMS.iter().position(|known| *known == room);
    let mut arrows = 0;
    for path in sources(&root) {
        let below = path.strip_prefix(&root).expect("a file of the room").with_extension("");
        let mut parts = below.iter().map(|part| part.to_str().expect("UTF-8"));
        let room = parts.next().expect("a room");
        if room == "mod" {
            continue;
        }
        let own = place(room).unwrap_or_else(|| panic!("{room} has no place in the order"));
        // What `super` is: the room's own folder, or all of them.
        let up = if below.components().count() == 1 { "super::" } else { "super::super::" };
        let text = fs::read_to_string(&path).expect("a source file");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().map(str::trim).filter(|line| line.starts_with("use ")) {
            let named = line.split_once("crate::control::data::").or_else(|| line.split_once(up));
            let Some((_, rest)) = named else { continue };
            for other in rest.split(['{', ',', ':', ' ', ';', '}']).filter_map(place) {
                arrows += 1;
                assert!(other <= own, "{}: {room} uses {}", path.display(), DATA_ROOMS[other]);
            }
        }
    }
    assert!(arrows > 30, "{arrows}");
}

/// The rooms of `control`, each of which uses only those before it.
const CONTROL_ROOMS: &[&str] = &[
    "addresses",
    "progress",
    "side_by_side",
    "spelling",
    "host_pattern",
    "data",
    "config",
    "trust_roots",
    "notify",
    "watch",
    "loss",
    "compile",
    "capture",
    "doctor",
    "load",
    "reload",
    "update",
    "explain",
    "admin",
];

/// Paths that a `use` tree names: `a::{b, c::{d, e}}` are `a::b`, `a::c::d`, `a::c::e`.
fn leaves(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((before, list)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().to_owned()];
    };
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    let list = list.strip_suffix('}').expect("a whole list");
    for (at, mark) in list.char_indices() {
        match mark {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[from..]);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(leaves).map(|leaf| format!("{before}{leaf}")).collect()
}

/// The modules of a room by their path below it (`""` is the room's own file), each with those that
/// it names, in `use` lines or elsewhere, tests and comments left out. A module that declares another
/// uses it.
fn modules(room: &str) -> BTreeMap<String, BTreeSet<String>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let root = source.join(room);
    let files = sources(&root).into_iter().chain([root.with_extension("rs")]);
    let named = |path: &Path| -> String {
        let below = path.with_extension("");
        let below = below.strip_prefix(&root).unwrap_or_else(|_| Path::new(""));
        below.to_str().expect("UTF-8").trim_end_matches("mod").trim_end_matches('/').to_owned()
    };
    let files = files.filter(|path| path.exists() && !path.ends_with("tests.rs"));
    let files: BTreeMap<String, PathBuf> = files.map(|path| (named(&path), path)).collect();
    let uses = |(own, path): (&String, &PathBuf)| {
        let text = fs::read_to_string(path).expect("a source file");
        let code = without_tests(&text);
        let mut lines = code.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
        let mut paths = Vec::new();
        while let Some(line) = lines.next() {
            let statement = line.strip_prefix("pub").unwrap_or(line).trim_start();
            let statement = statement.strip_prefix("(super)").unwrap_or(statement).trim_start();
            if let Some(child) = statement.strip_prefix("mod ").and_then(|it| it.strip_suffix(';'))
            {
                paths.push(format!("self::{child}"));
            } else if let Some(tree) = statement.strip_prefix("use ") {
                let mut tree = tree.to_owned();
                while !tree.ends_with(';') {
                    tree.push_str(lines.next().expect("the end of a statement"));
                }
                paths.extend(leaves(tree.trim_end_matches(';')));
            } else {
                // A path in the code; `pub(in PATH)` names no use.
                let code = line.split_once("pub(in ").map_or(line, |(before, _)| before);
                for word in ["crate::", "super::", "self::"] {
                    paths.extend(code.match_indices(word).map(|(at, _)| {
                        let ends = |c: char| !c.is_alphanumeric() && c != '_' && c != ':';
                        code[at..].split(ends).next().unwrap_or_default().to_owned()
                    }));
                }
            }
        }
        let mut used = BTreeSet::new();
        for path in paths {
            let mut at: Vec<&str> = own.split('/').filter(|part| !part.is_empty()).collect();
            let mut words = path.split("::").map(str::trim).peekable();
            match words.peek() {
                Some(&"crate") => {
                    words.next();
                    if words.next() != Some(room) {
                        continue;
                    }
                    at.clear();
                }
                Some(&("self" | "super")) => {
                    let mut outside = false;
                    while let Some(word) = words.next_if(|word| ["self", "super"].contains(word)) {
                        outside |= word == "super" && at.pop().is_none();
                    }
                    if outside {
                        continue;
                    }
                }
                _ => continue,
            }
            // The file is that of the longest part of the path that is a module.
            at.extend(words);
            while !files.contains_key(&at.join("/")) {
                at.pop();
            }
            used.insert(at.join("/"));
        }
        used.remove(own);
        (own.clone(), used)
    };
    files.iter().map(uses).collect()
}

/// A way from a module back to itself, where there is one.
fn circle(uses: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        uses: &BTreeMap<String, BTreeSet<String>>,
        at: &str,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        if let Some(begun) = way.iter().position(|before| before == at) {
            way.drain(..begun);
            return true;
        }
        if !done.insert(at.to_owned()) {
            return false;
        }
        way.push(at.to_owned());
        let round = uses.get(at).into_iter().flatten().any(|other| walk(uses, other, way, done));
        if !round {
            way.pop();
        }
        round
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    uses.keys().any(|module| walk(uses, module, &mut way, &mut done)).then_some(way)
}

#[test]
fn a_circle_is_found() {
    let uses = |arrows: &[(&str, &str)]| {
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in arrows {
            uses.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        uses
    };
    assert_eq!(circle(&uses(&[("a", "b"), ("a", "c"), ("b", "c")])), None);
    let found = circle(&uses(&[("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")]));
    assert_eq!(found.expect("a circle"), ["b", "c", "d"]);
    assert_eq!(leaves("a::{self, b as x, c::{d, e}}"), ["a::self", "a::b", "a::c::d", "a::c::e"]);
}

#[test]
fn control_has_no_circle_and_no_arrow_up() {
    let uses = modules("control");
    assert_eq!(circle(&uses), None);
    let top = |module: &str| module.split('/').next().unwrap_or_default().to_owned();
    let place = |module: &str| {
        let room = top(module);
        let place = CONTROL_ROOMS.iter().position(|known| *known == room);
        place.unwrap_or_else(|| panic!("{room} has no place in the order"))
    };
    let mut arrows = 0;
    for (module, others) in uses.iter().filter(|(module, _)| !module.is_empty()) {
        for other in others {
            assert!(!other.is_empty(), "{module} uses the room as a whole");
            assert!(place(other) <= place(module), "{module} uses {other}, which stands above it");
            arrows += 1;
        }
    }
    println!("control: {} modules, {arrows} arrows, none up, 0 circles", uses.len());
    assert!(arrows > 250, "{arrows}");
}

#[test]
fn the_command_line_has_no_circle() {
    let uses = modules("cli");
    assert_eq!(circle(&uses), None);
    let arrows: usize = uses.values().map(BTreeSet::len).sum();
    println!("cli: {} modules, {arrows} arrows, 0 circles", uses.len());
    assert!(arrows > 50, "{arrows}");
}

/// The rooms of `flow`, each of which uses only those before it. What a worker shares holds the UDP
/// flows of its SOCKS5 clients, so that their table lies below it and the rest of `udp` above.
const FLOW_ROOMS: &[&str] = &[
    "settings",
    "origin",
    "authority",
    "relay",
    "slots",
    "listener",
    "evaluate",
    "registry",
    "udp/ports",
    "udp/table",
    "worker",
    "session",
    "http",
    "overload",
    "accept",
    "refuse",
    "admit",
    "rejudge",
    "resolve",
    "first_flight",
    "along",
    "hello_retry",
    "starttls",
    "udp/flight",
    "udp/sockets",
    "udp/icmp",
    "udp/association",
    "udp/context",
    "udp/refuse",
    "udp/relay",
    "udp/walk",
    "udp/associate",
    "udp",
    "dns",
    "forward",
    "proxy",
    "serve",
    "lane",
    "drain",
];

/// The rooms of `flow` that a file names; `file` is its path below `src/flow`.
fn flow_rooms(file: &Path, code: &str) -> Vec<String> {
    let parts: Vec<_> = file.iter().map(|part| part.to_str().expect("UTF-8")).collect();
    // How many `super` lead to `flow` itself.
    let depth = parts.len() - usize::from(parts.ends_with(&["mod.rs"]));
    let of_folder = |word: &str| format!("{}/{word}", parts[0]);
    let mut rooms = Vec::new();
    for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
        let line = line.replace("crate::flow::", &"super::".repeat(depth));
        let mut rest = line.as_str();
        while let Some(at) = rest.find("super::") {
            let mut ups = 0;
            rest = &rest[at..];
            while let Some(behind) = rest.strip_prefix("super::") {
                (rest, ups) = (behind, ups + 1);
            }
            let named = rest.strip_prefix('{').map_or(rest, |list| list.trim_end_matches("};"));
            let several = rest.starts_with('{');
            for path in named.split(", ").take(if several { usize::MAX } else { 1 }) {
                let mut words = path.split(|c: char| !c.is_alphanumeric() && c != '_');
                let word = words.next().unwrap_or_default();
                let below = words.nth(1).map(|below| format!("{word}/{below}"));
                let listed = |room: &String| FLOW_ROOMS.contains(&room.as_str());
                if word.is_empty() {
                    continue;
                }
                if ups == depth {
                    rooms.push(below.filter(listed).unwrap_or_else(|| word.to_owned()));
                } else if ups + 1 == depth {
                    let own = Some(of_folder(word)).filter(listed);
                    rooms.push(own.unwrap_or_else(|| parts[0].to_owned()));
                }
            }
        }
    }
    rooms
}

#[test]
fn the_rooms_of_the_flow_use_only_those_before_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/flow");
    let place = |room: &str| FLOW_ROOMS.iter().position(|known| *known == room);
    let mut arrows = BTreeSet::new();
    for path in sources(&root) {
        let file = path.strip_prefix(&root).expect("a file of the room");
        let below = file.with_extension("");
        let below = below.to_str().expect("UTF-8");
        if below == "mod" || below.split('/').any(|part| part == "tests") {
            continue;
        }
        let top = below.split('/').next().unwrap_or_default();
        let own = place(below).or_else(|| place(top));
        let own = own.unwrap_or_else(|| panic!("{below} has no place in the order"));
        let text = fs::read_to_string(&path).expect("a source file");
        let code = without_tests(&text);
        for room in flow_rooms(file, code) {
            let other = place(&room).unwrap_or_else(|| panic!("{below} names {room}: no room"));
            assert!(other <= own, "{below} uses {room}, which stands above it");
            if other < own {
                arrows.insert((own, other));
            }
        }
    }
    // An order in which every arrow leads down has no circle.
    println!("flow: {} rooms, {} arrows, none up, 0 circles", FLOW_ROOMS.len(), arrows.len());
    assert!(arrows.len() > 100, "{}", arrows.len());
}

#[test]
fn a_key_of_a_listener_is_read_once_held_once_and_used_where_it_takes_effect() {
    // A key whose name means nothing else, and which has its effect in one place.
    const KEY: &str = "half_closed_timeout";
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for path in sources(&src) {
        let text = fs::read_to_string(&path).expect("a source file");
        let code = without_tests(&text);
        let mut lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let file = path.strip_prefix(&src).expect("a file of src").to_str().expect("UTF-8");
        if lines.any(|line| line.contains(KEY)) && !file.contains("tests") {
            files.push(file.to_owned());
        }
    }
    files.sort();
    let read = ["control/config/keys.rs", "control/config/listen.rs"];
    assert_eq!(files, [read[0], read[1], "flow/listener.rs", "settings.rs"], "{KEY}");
}

#[test]
fn silence_is_measured_in_one_place_beside_the_reactor() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in ["flow", "egress", "net"].iter().flat_map(|room| sources(&root.join(room))) {
        let text = fs::read_to_string(&path).expect("a source file");
        let own = text
            .lines()
            .any(|line| line.contains(": Cell<Instant>") || line.contains("(Cell<Instant>)"));
        let expected = path.ends_with("net/idle.rs");
        assert_eq!(own, expected, "{}: use net::idle::IdleTimer", path.display());
    }
}

/// Files of `flow` that a permitted TLS connection may enter.
const WALK_MAX: usize = 12;

/// The cells of each row of the first table below a heading of ARCHITECTURE.md.
fn table_below<'t>(text: &'t str, heading: &str) -> Vec<Vec<&'t str>> {
    let (_, behind) = text.split_once(heading).expect("the heading");
    let rows = behind.lines().skip_while(|line| !line.starts_with("|---"));
    let rows = rows.skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// The code of a file of `flow`, without its `use` lines, comments and tests.
fn code_of(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/flow").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|fault| panic!("{file}: {fault}"));
    let code = without_tests(&text);
    let is_code = |line: &&str| {
        let line = line.trim_start();
        !line.starts_with("//") && !line.starts_with("use ") && !line.starts_with("pub use ")
    };
    code.lines().filter(is_code).map(|line| line.to_owned() + "\n").collect()
}

#[test]
fn no_file_of_the_program_is_longer_than_a_reader_follows() {
    for path in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let lines = fs::read_to_string(&path).expect("a source").lines().count();
        assert!(
            lines <= LINES_MAX,
            "{} has {lines} lines: cut it where it says two things",
            path.display()
        );
    }
}

#[test]
fn a_tls_connection_enters_each_file_of_its_walk_once_from_serve() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = fs::read_to_string(path).expect("ARCHITECTURE.md");
    let rows = table_below(&text, "## The life of a TLS connection");
    let serve = code_of("serve.rs");
    let (mut entered, mut at_last) = (Vec::new(), 0);
    for row in &rows {
        let [_, file, by] = row[..] else { panic!("a row of three: {row:?}") };
        let file = file.trim_matches('`').strip_prefix("src/flow/").expect("a file of flow");
        assert!(!entered.contains(&file), "{file} is entered twice");
        assert!(!code_of(file).is_empty());
        entered.push(file);
        let Some((from, call)) = by.split_once(": ") else { continue };
        let call = call.trim_matches('`');
        let (from, before) = (format!("{from}.rs"), code_of(&format!("{from}.rs")));
        assert!(entered.contains(&from.as_str()), "{file} is entered from {from}, which is not");
        assert!(before.contains(call), "{from} does not call {call}");
        if from == "serve.rs" {
            assert_eq!(serve.matches(call).count(), 1, "serve.rs: {call}");
            let at = serve.find(call).expect("called");
            assert!(at > at_last, "serve.rs: {call} stands before what comes first");
            at_last = at;
        }
    }
    println!("a permitted TLS connection enters {} files of flow", entered.len());
    assert!((8..=WALK_MAX).contains(&entered.len()), "{entered:?}");
    // Nothing of the walk is left out: what serve uses is in the table, or serves other connections.
    let others = ["along", "evaluate", "proxy", "refuse", "slots", "starttls", "worker"];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/flow/serve.rs");
    let text = fs::read_to_string(path).expect("serve.rs");
    for line in text.lines().filter_map(|line| line.strip_prefix("use super::")) {
        let name = line.split([':', ';']).next().unwrap_or_default();
        let file = format!("{name}.rs");
        let known = entered.contains(&file.as_str()) || others.contains(&name);
        assert!(known, "serve.rs uses {name}, which ARCHITECTURE.md leaves out");
    }
}

/// Private words that the field's own have taken the place of, of the data plane and of others.
const RETIRED_OF_FLOW: &[&str] = &[
    "Again", "Asked", "Book", "Course", "Desk", "Dialogue", "Door", "Fake", "Follower", "Front",
    "Gate", "Grounds", "Guest", "Judge", "Lent", "Letter", "Mailbox", "Mailroom", "Missed",
    "Patience", "Policies", "Post", "Reached", "Rig", "Seat", "Seen", "Shelf", "Spoken", "Stop",
    "Tie", "Way", "Weighed", "Wire", "PATIENCE", "beat", "desk", "door", "gate", "lanes",
    "mailbox", "seat", "wire",
];
const RETIRED: &[(&str, &[&str])] = &[
    ("flow", RETIRED_OF_FLOW),
    ("net", RETIRED_OF_FLOW),
    ("egress", RETIRED_OF_FLOW),
    ("account", &["Grounds", "Judged", "Kept", "Tallies", "Tally", "Way", "grounds", "tally"]),
    (
        "control",
        &[
            "Built",
            "Drawing",
            "Drawn",
            "Governor",
            "Imprint",
            "Keeper",
            "Plan",
            "Standing",
            "Wanted",
            "Whereabouts",
            "anchors",
            "hastened",
            "standing",
            "whereabouts",
        ],
    ),
    (
        "policy",
        &[
            "Atlas",
            "Detour",
            "Fate",
            "Plane",
            "Standing",
            "Whereabouts",
            "atlas",
            "hastened",
            "lean",
            "nest",
            "pages",
            "standing",
            "whereabouts",
        ],
    ),
    ("sys", &["keep_large_blocks_apart"]),
];

#[test]
fn retired_words_stay_retired() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (room, retired) in RETIRED {
        for path in sources(&root.join(room)) {
            let text = fs::read_to_string(&path).expect("a source file");
            let lines =
                text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
            for (at, line) in lines {
                let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
                let found = words.find(|word| retired.contains(word));
                assert!(found.is_none(), "{}:{}: {found:?}: {line}", path.display(), at + 1);
            }
        }
    }
}

/// What a user reads says "is not a prefix".
#[test]
fn texts_for_users_are_plain_english() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&root) {
        let text = fs::read_to_string(&path).expect("a source file");
        let lines = text.lines().enumerate();
        for (at, line) in lines.filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let mut words = line.split(|c: char| c.is_whitespace() || c == '"').collect::<Vec<_>>();
            words.retain(|word| !word.is_empty());
            for three in words.windows(4) {
                let [before, verb, no, what] = three else { continue };
                let is_plain = ["there", "There"].contains(before)
                    || ["longer", "more", "other"].contains(what);
                let is_odd = ["is", "are", "was"].contains(verb) && *no == "no" && !is_plain;
                assert!(!is_odd, "{}:{}: {}", path.display(), at + 1, line.trim());
            }
        }
    }
}
