//! What the manual says of each command beyond its help.

/// One page.
pub(super) struct Page {
    /// The words that lead to the command; empty for the program itself.
    pub(super) command: &'static str,
    /// What the exit statuses 0, 1 and 2 mean, in this order.
    pub(super) exit: [&'static str; 3],
    /// Files beside the policy, with what they are.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// What for, and the command line.
    pub(super) examples: &'static [(&'static str, &'static str)],
}

impl Page {
    /// The page of a command; one without a row says what holds for every command.
    pub(super) fn of(path: &[String]) -> &'static Self {
        let command = path.join(" ");
        PAGES.iter().find(|page| page.command == command).unwrap_or(&GENERAL)
    }
}

const GENERAL: Page = Page { command: "", exit: EXIT, files: NONE, examples: &[] };

const EXIT: [&str; 3] = ["Yes, or done.", "No.", "It could not answer; stderr says why."];

const NONE: &[(&str, &str)] = &[];

/// Files of the whole program.
const SHARED: &[(&str, &str)] = &[
    ("/etc/schengate/policy.toml", "The policy."),
    ("/etc/schengate/capture.env", "CAPTURE_OPTIONS of the units that set the capture rules."),
    ("/var/lib/schengate", "Tables, the record and what the gateway remembers."),
    ("/run/schengate-keeper/state.json", "What the keeper found of the capture rules."),
];

const KEEPER: (&str, &str) = SHARED[3];
const RECORD: &[(&str, &str)] =
    &[("/var/lib/schengate/audit", "The record, where [audit] directory says so.")];
const TABLES: &[(&str, &str)] =
    &[("/var/lib/schengate", "Tables that [data] of the policy names, where they are relative.")];

const PRINTED: [&str; 3] = ["Printed.", "Not used.", "It could not answer; stderr says why."];
const SET: [&str; 3] = [
    "Done.",
    "The policy has no listener for it, or the rules cannot be made for it.",
    "A command failed, or the policy cannot be read.",
];
const SOUND: [&str; 3] =
    ["Every table is sound.", "A table is refused.", "The policy cannot be read."];
const FOUND: [&str; 3] = ["Something was printed.", "There is nothing.", "It cannot be read."];

/// In the order of the help.
pub(super) const PAGES: &[Page] = &[
    Page {
        command: "",
        exit: EXIT,
        files: SHARED,
        examples: &[
            ("May bytes go there, and why", "schengate explain --to 198.51.100.7:443"),
            (
                "Hold a policy against its faults before it is used",
                "schengate check --config policy.toml",
            ),
            ("An explicit proxy on 127.0.0.1:3128 that observes", "schengate run"),
        ],
    },
    Page {
        command: "run",
        exit: [
            "After an orderly stop.",
            "Not used.",
            "The gateway could not start; stderr says why.",
        ],
        files: &[
            ("/var/lib/schengate", "Tables, the record and what the gateway remembers."),
            KEEPER,
        ],
        examples: &[
            ("An explicit proxy on 127.0.0.1:3128 that observes", "schengate run"),
            (
                "As the service does",
                "schengate run --hand-over --config /etc/schengate/policy.toml",
            ),
        ],
    },
    Page {
        command: "exec",
        exit: [
            "The command's own: what it ended with, 128 and the signal's number where one ended it, 125 \
             where it was never started, 126 where it cannot be run, 127 where it is not there. 0: the \
             command said so.",
            "The command said so.",
            "The command said so, or the arguments are wrong.",
        ],
        files: TABLES,
        examples: &[
            (
                "Where does it send data",
                "schengate exec --observe -- curl -s https://www.example.eu/",
            ),
            (
                "With what leaves for elsewhere than the EEA refused",
                "schengate exec --policy permit=eea -- npm ci",
            ),
            (
                "The rules that a build would need",
                "schengate exec --config policy.toml --propose=proposed.toml -- make",
            ),
        ],
    },
    Page {
        command: "init",
        exit: ["Written.", "There is such a file already.", "It cannot be written."],
        files: NONE,
        examples: &[
            ("What there is", "schengate init"),
            ("A policy that only looks yet", "schengate init eea --output policy.toml"),
        ],
    },
    Page {
        command: "check",
        exit: [
            "The policy loads.",
            "It does not; every fault is shown.",
            "The file cannot be read.",
        ],
        files: TABLES,
        examples: &[
            ("The installed policy", "schengate check"),
            ("Another one, for a script", "schengate check --json --config policy.toml"),
        ],
    },
    Page {
        command: "doctor",
        exit: [
            "Nothing was found.",
            "Something was; each finding says what mends it.",
            "Something could not be looked at, and nothing else was found.",
        ],
        files: SHARED,
        examples: &[
            ("What is wrong with this host", "schengate doctor"),
            ("For a script", "schengate doctor --json --config /etc/schengate/policy.toml"),
        ],
    },
    Page {
        command: "explain",
        exit: [
            "It would be forwarded.",
            "It would be refused.",
            "It could not answer; stderr says why.",
        ],
        files: TABLES,
        examples: &[
            ("An address", "schengate explain --to 198.51.100.7"),
            (
                "With the name that the client asks for, and on another day",
                "schengate explain --to 198.51.100.7:443 --host www.example.eu --at 2027-01-01",
            ),
        ],
    },
    Page {
        command: "top",
        exit: ["Printed.", "Not used.", "The gateway does not answer; stderr says why."],
        files: NONE,
        examples: &[
            ("Where most bytes go now, by country", "schengate top --by country"),
            ("One look, for a file", "schengate top --once"),
        ],
    },
    Page {
        command: "connections",
        exit: [
            "Printed, or the connection is ended.",
            "There is no live connection of this id.",
            "The gateway does not answer; stderr says why.",
        ],
        files: NONE,
        examples: &[
            (
                "The largest uploads of one client",
                "schengate connections --order up --client 10.0.0.7",
            ),
            ("End one", "schengate connections --kill 1964a2f1c3b-77"),
        ],
    },
    Page {
        command: "tail",
        exit: [
            "As many as were asked for.",
            "Not used.",
            "The gateway does not answer; stderr says why.",
        ],
        files: NONE,
        examples: &[
            ("What is refused because of its place", "schengate tail --reason outside"),
            ("Everything of one client, as JSON", "schengate tail --all --client 10.0.0.7 --json"),
        ],
    },
    Page {
        command: "why",
        exit: [
            "It is known, and would be let go today.",
            "It is known, and would be refused today.",
            "It is not known, or the gateway does not answer.",
        ],
        files: NONE,
        examples: &[(
            "By the event id that a refused person gives",
            "schengate why 1964a2f1c3b-77",
        )],
    },
    Page {
        command: "inspect",
        exit: [
            "Every flow would be forwarded.",
            "Some flow would be refused.",
            "A file could not be read.",
        ],
        files: TABLES,
        examples: &[("What would have become of a capture", "schengate inspect trace.pcapng")],
    },
    Page {
        command: "capture",
        exit: SET,
        files: NONE,
        examples: &[("Look whether the rules stand", "schengate capture check")],
    },
    Page {
        command: "capture up",
        exit: SET,
        files: NONE,
        examples: &[
            ("Clients come in by lan0", "schengate capture up --gateway --interface lan0"),
            ("This machine's own traffic", "schengate capture up --host"),
        ],
    },
    Page {
        command: "capture guard",
        exit: ["Done.", "Not used.", "A command failed."],
        files: NONE,
        examples: &[("Before the network is up", "schengate capture guard")],
    },
    Page {
        command: "capture keep",
        exit: ["After a signal.", SET[1], SET[2]],
        files: &[KEEPER],
        examples: &[("As the unit does", "schengate capture keep --gateway --interface lan0")],
    },
    Page {
        command: "capture down",
        exit: ["Done.", "Not used.", "A command failed."],
        files: NONE,
        examples: &[
            ("Take back rules and routes", "schengate capture down"),
            ("The guard too: what is forwarded then passes", "schengate capture down --guard"),
        ],
    },
    Page {
        command: "capture print",
        exit: ["Printed.", SET[1], "The policy cannot be read."],
        files: NONE,
        examples: &[("What would be set", "schengate capture print --gateway --interface lan0")],
    },
    Page {
        command: "capture check",
        exit: ["Everything stands.", "Something is broken.", "Something cannot be seen."],
        files: NONE,
        examples: &[("Of the installed policy", "schengate capture check")],
    },
    Page {
        command: "capture show",
        exit: ["Printed.", "Not used.", "The counters cannot be read."],
        files: NONE,
        examples: &[("What the rules refused", "schengate capture show")],
    },
    Page {
        command: "audit",
        exit: EXIT,
        files: RECORD,
        examples: &[("The last ten records", "schengate audit tail")],
    },
    Page {
        command: "audit verify",
        exit: [
            "The record is whole.",
            "It is not; each record that was changed is named.",
            "It cannot be read.",
        ],
        files: RECORD,
        examples: &[(
            "With a checkpoint that was kept elsewhere",
            "schengate audit verify --key record.pub --head head.txt /var/lib/schengate/audit",
        )],
    },
    Page {
        command: "audit prove",
        exit: ["Proved.", "Nothing was found.", "It cannot be read."],
        files: RECORD,
        examples: &[("The record of a number", "schengate audit prove 4711 > proof.txt")],
    },
    Page {
        command: "audit verify-proof",
        exit: ["The proof holds.", "It does not.", "It cannot be read."],
        files: NONE,
        examples: &[(
            "With the key alone",
            "schengate audit verify-proof --key record.pub proof.txt",
        )],
    },
    Page {
        command: "audit head",
        exit: ["Printed.", "There is none.", "It cannot be read."],
        files: RECORD,
        examples: &[("To keep elsewhere", "schengate audit head > head.txt")],
    },
    Page {
        command: "audit tail",
        exit: FOUND,
        files: RECORD,
        examples: &[("The last hundred", "schengate audit tail -n 100")],
    },
    Page {
        command: "audit show",
        exit: FOUND,
        files: RECORD,
        examples: &[("The record of a number", "schengate audit show 4711")],
    },
    Page {
        command: "audit grep",
        exit: FOUND,
        files: RECORD,
        examples: &[("Every record with this name", "schengate audit grep www.example.com")],
    },
    Page {
        command: "audit export",
        exit: FOUND,
        files: RECORD,
        examples: &[
            ("For a spreadsheet", "schengate audit export --format csv > record.csv"),
            ("For a SIEM", "schengate audit export --format ocsf --ocsf-version 1.8 > events.json"),
        ],
    },
    Page {
        command: "audit register",
        exit: ["There are rows.", "There are none.", "It cannot be read."],
        files: RECORD,
        examples: &[(
            "What left in November, by country and operator",
            "schengate audit register --from 2026-11-01 --to 2026-12-01 --by location,operator",
        )],
    },
    Page {
        command: "audit reconcile",
        exit: ["Everything agrees.", "Something does not.", "It cannot be compared."],
        files: RECORD,
        examples: &[("The register with the segments", "schengate audit reconcile")],
    },
    Page {
        command: "audit reveal",
        exit: [
            "Told.",
            "Nothing was found, or its key was destroyed.",
            "It cannot be read, or not be recorded that it was asked.",
        ],
        files: RECORD,
        examples: &[(
            "Who had a connection",
            "schengate audit reveal /var/lib/schengate/audit 19ae2c1f7d3-4711 --purpose incident-7",
        )],
    },
    Page {
        command: "audit verify-report",
        exit: ["The report is what was signed.", "It is not.", "It cannot be read."],
        files: NONE,
        examples: &[(
            "With the note beside it",
            "schengate audit verify-report --key record.pub november.html",
        )],
    },
    Page {
        command: "audit keygen",
        exit: ["Written.", "Not used.", "It could not be written."],
        files: NONE,
        examples: &[(
            "Before [audit] signs",
            "schengate audit keygen --name post.example.eu /etc/schengate/record.key",
        )],
    },
    Page {
        command: "report",
        exit: [
            "Written, and nothing speaks against the record.",
            "Written, and it says what does.",
            "It could not be made.",
        ],
        files: RECORD,
        examples: &[
            (
                "November, as a page that prints",
                "schengate report --from 2026-11-01 --to 2026-12-01 --output november.html",
            ),
            (
                "The countries that data went to, to be published",
                "schengate report --preset transfers --output countries.html",
            ),
        ],
    },
    Page {
        command: "data",
        exit: EXIT,
        files: TABLES,
        examples: &[("Every table, with its date", "schengate data list")],
    },
    Page {
        command: "data list",
        exit: SOUND,
        files: TABLES,
        examples: &[("Those in use by the installed policy", "schengate data list")],
    },
    Page {
        command: "data verify",
        exit: SOUND,
        files: TABLES,
        examples: &[(
            "A new file, before it is put in place",
            "schengate data verify country.mmdb",
        )],
    },
    Page {
        command: "data diff",
        exit: ["The tables say the same.", "They differ.", "They cannot be compared."],
        files: NONE,
        examples: &[("What a new table would change", "schengate data diff embedded country.mmdb")],
    },
    Page {
        command: "data update",
        exit: ["Each file is the published one.", "One was refused.", "One could not be fetched."],
        files: TABLES,
        examples: &[
            ("What would be fetched", "schengate data update --dry-run"),
            ("One source", "schengate data update cloud"),
        ],
    },
    Page {
        command: "data build",
        exit: ["Built.", "A source is refused.", "The key cannot be used."],
        files: NONE,
        examples: &[(
            "A signed pack for a site without a network",
            "schengate data build --pack site.sgp --sign pack.key country=country.mmdb asn=asn.csv",
        )],
    },
    Page {
        command: "data keygen",
        exit: ["Written.", "Not used.", "It could not be written."],
        files: NONE,
        examples: &[("A key that packs are signed with", "schengate data keygen pack.key")],
    },
    Page {
        command: "zones",
        exit: EXIT,
        files: NONE,
        examples: &[("What a policy may name", "schengate zones list")],
    },
    Page {
        command: "zones list",
        exit: PRINTED,
        files: NONE,
        examples: &[("As of a day", "schengate zones list --at 2019-06-01")],
    },
    Page {
        command: "zones show",
        exit: ["Printed.", "Not used.", "There is no such zone."],
        files: NONE,
        examples: &[(
            "Members, since when and by which source",
            "schengate zones show gdpr-adequacy",
        )],
    },
    Page {
        command: "zones diff",
        exit: ["Nothing changed.", "Something did.", "There is no such zone."],
        files: NONE,
        examples: &[(
            "Who joined and who left",
            "schengate zones diff eu --from 2019-06-01 --to 2026-01-01",
        )],
    },
    Page {
        command: "completions",
        exit: PRINTED,
        files: NONE,
        examples: &[(
            "For bash",
            "schengate completions bash > /usr/share/bash-completion/completions/schengate",
        )],
    },
    Page {
        command: "man",
        exit: [
            "Printed or written.",
            "Not used.",
            "There is no such command, or nothing can be written.",
        ],
        files: NONE,
        examples: &[
            ("Read one", "schengate man capture up | man -l -"),
            ("All of them", "schengate man --output /usr/local/share/man/man1"),
        ],
    },
];
