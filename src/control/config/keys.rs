//! Every key of the policy file: what the reader takes for known, and what the tables of
//! docs/policy.md say. A key that is not here is an unknown key; a test reads each example.

/// A key of the policy file, as it is documented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The table it stands in, such as `policy.on`; empty at the top of the file.
    pub table: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What may stand there.
    pub form: Form,
    /// What holds where it is not written.
    pub default: &'static str,
    /// A value as it is written in the file.
    pub example: &'static str,
    /// What it says, in one sentence.
    pub says: &'static str,
}

/// What may stand at a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the type of its label")]
pub enum Form {
    Table,
    Tables,
    Word,
    Text,
    Texts,
    Zones,
    Hosts,
    Prefixes,
    Addresses,
    Address,
    Flag,
    FlagOrAddress,
    Number,
    Numbers,
    Ports,
    Duration,
    Share,
    Date,
    Path,
    Paths,
    Url,
}

impl Form {
    /// As the page names it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Tables => "list of tables",
            Self::Word => "one of the words",
            Self::Text => "text",
            Self::Texts => "list of texts",
            Self::Zones => "list of zones and codes",
            Self::Hosts => "list of host patterns",
            Self::Prefixes => "list of prefixes",
            Self::Addresses => "list of addresses",
            Self::Address => "address and port",
            Self::Flag => "boolean",
            Self::FlagOrAddress => "boolean, or address and port",
            Self::Number => "whole number",
            Self::Numbers => "list of whole numbers",
            Self::Ports => "list of ports and ranges",
            Self::Duration => "duration",
            Self::Share => "percentage",
            Self::Date => "date or date-time",
            Self::Path => "path",
            Self::Paths => "list of paths",
            Self::Url => "URL",
        }
    }
}

const fn key(
    table: &'static str,
    name: &'static str,
    form: Form,
    default: &'static str,
    example: &'static str,
    says: &'static str,
) -> Key {
    Key { table, name, form, default, example, says }
}

/// Stands as the default of a key that has none.
const REQUIRED: &str = "required";
/// Stands as the default of a key that, left out, says nothing.
const NONE: &str = "none";
/// Stands as the default of a key of a group.
const INHERITED: &str = "that of `[policy]`";

/// The tables in the order of the page, each with the keys in it.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("", "schema", Form::Number, REQUIRED, "1", "The form of the file; this program reads 1."),
    key("", "policy", Form::Table, REQUIRED, "{ permit = [\"FR\"] }", "What holds for every client, unless a group says otherwise."),
    key("", "group", Form::Tables, NONE, "[{ name = \"dev\", clients = [\"10.40.0.0/16\"] }]", "Clients with a policy of their own; a client belongs to the group with the most specific prefix."),
    key("", "zones", Form::Table, NONE, "{ home = [\"eea\", \"-GB\"] }", "Sets of your own: each key is a name, each value a list of zones and codes."),
    key("", "rule", Form::Tables, NONE, "[{ name = \"one\", to = [\"192.0.2.0/24\"], action = \"block\" }]", "The first that matches, in the order of the file, decides before the axes are judged."),
    key("", "operator", Form::Tables, NONE, "[{ name = \"ours\", asn = [64496], homes = [\"FR\"] }]", "Adds to the built-in operators, or replaces one."),
    key("", "place", Form::Tables, NONE, "[{ to = [\"198.51.100.0/24\"], location = [\"FR\"] }]", "Says where addresses are, over every table."),
    key("", "names", Form::Table, "as below", "{ binding = \"verify\" }", "How names are believed and asked for."),
    key("", "dns", Form::Table, "not a name server", "{ listen = \"192.0.2.1:53\" }", "The gateway as a name server that judges names."),
    key("", "listen", Form::Tables, "an explicit proxy on 127.0.0.1:3128", "[{ mode = \"proxy\", address = \"127.0.0.1:3128\" }]", "Where clients come in."),
    key("", "admin", Form::Table, "as below", "{ address = \"127.0.0.1:9643\" }", "Where the metrics, the API and the page are."),
    key("", "capture", Form::Table, "as below", "{ shortcut = \"off\" }", "What the rules of `schengate capture` leave to the kernel."),
    key("", "data", Form::Table, "as below", "{ country = [\"embedded\"] }", "Where the tables come from."),
    key("", "audit", Form::Table, "the lines on the log are the record", "{ durability = \"disk\" }", "Keeps the record as evidence ([record.md](record.md))."),
    key("", "log", Form::Table, "as below", "{ connections = \"all\" }", "Which lines of connections people see on the log."),

    key("policy", "mode", Form::Word, "\"enforce\"", "\"observe\"", "`enforce` refuses; `observe` judges and records, and refuses nothing but guards."),
    key("policy", "permit", Form::Zones, REQUIRED, "[\"eea\", \"gdpr-adequacy\"]", "Where bytes may land."),
    key("policy", "permit_law", Form::Zones, "the law is shown, not judged", "[\"eea\"]", "Whose law may reach the operator."),
    key("policy", "on", Form::Table, "as below", "{ unread = \"block\" }", "What each cause leads to."),
    key("policy", "grace", Form::Duration, "\"0s\"", "\"30s\"", "How long a live connection that is no longer permitted may go on."),
    key("policy", "watch", Form::Flag, "true", "false", "Whether a changed file is taken up once it is whole; else only SIGHUP does it."),
    key("policy", "contact", Form::Text, NONE, "\"it@hospital.example\"", "Whom a refused client is told to ask."),
    key("policy", "ask_url", Form::Url, NONE, "\"https://helpdesk.hospital.example/egress\"", "The page on which a refused person can ask for the destination."),
    key("policy", "registrant", Form::Word, "\"show\"", "\"judge\"", "What the country of an address's registrant is where no operator is known: `show`: told by `explain`, and no more; `judge`: it counts as home."),

    key("policy.on", "outside", Form::Word, "\"block\"", "\"log\"", "Located outside `permit`."),
    key("policy.on", "law", Form::Word, "\"block\"", "\"log\"", "Reached by a law outside `permit_law`."),
    key("policy.on", "operator", Form::Word, "\"log\"", "\"block\"", "`permit_law` is set and nobody knows whose network it is."),
    key("policy.on", "unknown", Form::Word, "\"block\"", "\"log\"", "No source knows the address."),
    key("policy.on", "disputed", Form::Word, "\"log\"", "\"block\"", "The first country table says inside, another says outside."),
    key("policy.on", "anycast", Form::Word, "\"block\"", "\"log\"", "Announced from many places; a country says nothing."),
    key("policy.on", "mismatch", Form::Word, "\"block\"", "\"log\"", "A name that does not belong to the address."),
    key("policy.on", "unread", Form::Word, "\"judge\"", "\"block\"", "A name is needed and none could be read; `judge`: by the address."),
    key("policy.on", "malformed", Form::Word, "\"block\"", "\"log\"", "First bytes that begin a protocol and break it, contradict themselves, or stop half-way."),
    key("policy.on", "stale", Form::Word, "\"log\"", "\"block\"", "The table that gave the location is older than `[data] max_age`."),
    key("policy.on", "private", Form::Word, "\"allow\"", "\"block\"", "Private space that no `[[place]]` names."),

    key("group", "name", Form::Text, REQUIRED, "\"dev\"", "Its name, for `from` of rules."),
    key("group", "clients", Form::Prefixes, REQUIRED, "[\"10.40.0.0/16\", \"fd00:40::/32\"]", "Who is in it; a prefix stands in one group."),
    key("group", "mode", Form::Word, INHERITED, "\"observe\"", "As in `[policy]`."),
    key("group", "permit", Form::Zones, INHERITED, "[\"eea\"]", "As in `[policy]`."),
    key("group", "permit_law", Form::Zones, INHERITED, "[\"eea\"]", "As in `[policy]`."),
    key("group", "on", Form::Table, INHERITED, "{ unread = \"block\" }", "As `[policy.on]`, key by key."),
    key("group", "until", Form::Date, NONE, "2026-12-31", "When `mode` ends and the inherited one returns."),

    key("rule", "from", Form::Texts, NONE, "[\"10.50.0.0/16\"]", "Clients: groups by name, or prefixes."),
    key("rule", "host", Form::Hosts, NONE, "[\"deb.debian.org\", \"*.example.eu\"]", "Names; `*.example.eu` is every name below it and not itself."),
    key("rule", "host_file", Form::Path, NONE, "\"hosts.txt\"", "A file of host patterns, one a line; together with `host` one condition."),
    key("rule", "service", Form::Texts, NONE, "[\"microsoft-365/exchange\"]", "Services by name, in place of their hosts and prefixes ([data.md](data.md))."),
    key("rule", "to", Form::Prefixes, NONE, "[\"192.0.2.0/24\"]", "Destination addresses."),
    key("rule", "location", Form::Zones, NONE, "[\"eea\"]", "Where the destination may be."),
    key("rule", "law", Form::Zones, NONE, "[\"US\"]", "Whose law may reach its operator."),
    key("rule", "operator", Form::Texts, NONE, "[\"amazon\"]", "Operator ids."),
    key("rule", "asn", Form::Numbers, NONE, "[64496]", "AS numbers."),
    key("rule", "region", Form::Texts, NONE, "[\"aws:eu-west-3\"]", "Published regions of providers."),
    key("rule", "port", Form::Ports, NONE, "[443, \"8000-8099\"]", "Destination ports."),
    key("rule", "transport", Form::Texts, NONE, "[\"tcp\"]", "`tcp`, `udp`."),
    key("rule", "protocol", Form::Texts, NONE, "[\"tls\", \"quic\"]", "`tls`, `quic`, `http`, `other`; DTLS is `other`."),
    key("rule", "since", Form::Date, NONE, "2026-01-01", "From when it holds: the beginning of the day, in UTC."),
    key("rule", "until", Form::Date, NONE, "2027-03-31", "Until when it holds: the end of the day, in UTC; a date-time ends at its instant."),
    key("rule", "name", Form::Text, REQUIRED, "\"os-updates\"", "A name of its own, for the record."),
    key("rule", "action", Form::Word, REQUIRED, "\"allow\"", "`allow`, `log` or `block`."),
    key("rule", "basis", Form::Text, NONE, "\"HDS contract C-118\"", "The ground on which data leave."),
    key("rule", "reason", Form::Text, NONE, "\"no patient data\"", "Why the rule is there."),
    key("rule", "owner", Form::Text, NONE, "\"IT operations\"", "Who answers for it; with `until`, an allow or log rule is a waiver."),

    key("operator", "name", Form::Text, REQUIRED, "\"s3ns\"", "Its id: lower-case letters, digits and single `-`."),
    key("operator", "host", Form::Hosts, NONE, "[\"*.s3nsapis.fr\"]", "Names that are its own; at least one of `host`, `prefix`, `asn` is needed."),
    key("operator", "prefix", Form::Prefixes, NONE, "[\"192.0.2.0/24\"]", "Addresses that are its own."),
    key("operator", "asn", Form::Numbers, NONE, "[64496]", "AS numbers that are its own."),
    key("operator", "homes", Form::Zones, REQUIRED, "[\"FR\"]", "Countries whose law reaches it; codes alone."),
    key("operator", "technology", Form::Zones, NONE, "[\"US\"]", "Countries whose technology it runs on; shown, not judged."),
    key("operator", "evidence", Form::Text, NONE, "\"SecNumCloud 3.2\"", "What the statement rests on."),
    key("operator", "as_of", Form::Date, NONE, "2026-01-05", "The date of the statement."),

    key("place", "to", Form::Prefixes, REQUIRED, "[\"198.51.100.0/24\"]", "The addresses; the most specific prefix wins."),
    key("place", "location", Form::Zones, "required without `anycast`", "[\"FR\"]", "Where they are."),
    key("place", "anycast", Form::Flag, NONE, "true", "That they answer from many places; in place of `location`."),
    key("place", "reason", Form::Text, NONE, "\"own colocation, Roubaix\"", "How that is known."),

    key("names", "binding", Form::Word, "\"verify\"", "\"redial\"", "When a name may allow: `verify`: the address is among its DNS answers; `redial`: an address that the gateway resolved is dialled; `trust`: the client is believed."),
    key("names", "ech", Form::Word, "\"claim\"", "\"unread\"", "What a hello with the ECH extension is: `claim`: its outer name is the name; `unread`: it has no name; `block`: refused."),
    key("names", "resolvers", Form::Texts, "those of the host", "[\"192.0.2.53:53\", \"tls://192.0.2.53:853#dns.example\"]", "Who is asked."),
    key("names", "resolver_ca", Form::Path, "whom the host trusts", "\"ca.pem\"", "Who vouches for resolvers over TLS."),
    key("names", "remember", Form::Duration, "\"10m\"", "\"1h\"", "How long an answer holds where its TTL is shorter; a day at most."),
    key("names", "new_names", Form::Number, "6000", "1000", "Different names that one client may have asked about in a minute; more are `overload`."),
    key("names", "new_names_per_domain", Form::Number, "300", "100", "The same below one domain."),

    key("dns", "listen", Form::Address, REQUIRED, "\"192.0.2.1:53\"", "Where clients ask; `[names] resolvers` has to say who is asked in turn."),
    key("dns", "refuse", Form::Word, "\"refused\"", "\"nxdomain\"", "How a refused name is answered."),
    key("dns", "filter", Form::Flag, "true", "false", "Whether addresses that the policy refuses are left out of answers."),
    key("dns", "strip_ech", Form::Flag, "false", "true", "Whether the keys of ECH are left out of HTTPS and SVCB records."),
    key("dns", "rate", Form::Number, "100", "40", "Questions a second that one client may ask."),
    key("dns", "types", Form::Texts, "A AAAA CNAME HTTPS MX NS PTR SOA SRV SVCB", "[\"A\", \"AAAA\", \"TYPE16\"]", "Types of record that may be asked for; all others are refused."),

    key("listen", "mode", Form::Word, REQUIRED, "\"tproxy\"", "`tproxy`, `redirect`, or `proxy`: HTTP CONNECT, plain HTTP and SOCKS5 on one port; or `lane` (docs/lane.md)."),
    key("listen", "address", Form::Address, "required, but for a lane", "\"[::]:15001\"", "Where it listens."),
    key("listen", "peek_timeout", Form::Duration, "\"3s\"", "\"500ms\"", "How long first bytes are awaited; 50 ms to 60 s."),
    key("listen", "connect_timeout", Form::Duration, "\"10s\"", "\"5s\"", "How long the destination may take to answer; 50 ms to 5 min."),
    key("listen", "idle_timeout", Form::Duration, "\"1h\"", "\"10m\"", "How long a connection may be silent; 1 s to 30 days."),
    key("listen", "half_closed_timeout", Form::Duration, "`idle_timeout`", "\"5m\"", "The same once one side has closed."),
    key("listen", "lifetime", Form::Duration, NONE, "\"12h\"", "How long a connection may last."),
    key("listen", "keepalive", Form::Duration, NONE, "\"5m\"", "After how much silence the kernel probes."),
    key("listen", "user_timeout", Form::Duration, NONE, "\"30s\"", "TCP_USER_TIMEOUT of the kernel."),
    key("listen", "keep_source", Form::Flag, "false", "true", "Whether the client's own address is dialled from; captured clients, CAP_NET_RAW."),
    key("listen", "max_connections", Form::Number, "65536", "10000", "Connections at once; more are `overload`."),
    key("listen", "max_connections_per_client", Form::Number, "a quarter of all, 14116 at most", "1000", "The same for one client (an address, an IPv6 /64); 0: no limit of its own."),
    key("listen", "silent", Form::Flag, "false", "true", "Whether a refused client is told nothing."),
    key("listen", "starttls", Form::Flag, "false", "true", "Whether STARTTLS is followed to the name in the hello; captured clients."),
    key("listen", "udp", Form::FlagOrAddress, "true for `tproxy`, else false", "\"[::]:443\"", "Whether UDP is taken as well, and where."),
    key("listen", "queues", Form::Text, "\"21320-21323\"", "\"21320-21327\"", "Of a lane: the queues of the kernel in which new flows wait; one for each worker, or more."),
    key("listen", "interface", Form::Texts, "those of `capture up --interface`", "[\"lan0\"]", "Of a lane: the interfaces by which its clients come in."),
    key("listen", "on_death", Form::Word, "\"stop\"", "\"carry\"", "Of a lane: what becomes of live flows when the gateway dies or hangs: `stop` within 1 s, or `carry` on until the next start."),

    key("admin", "address", Form::Address, "\"127.0.0.1:9643\"", "\"127.0.0.1:9000\"", "Where `/metrics`, `/healthz`, `/readyz`, the API and the page are ([api.md](api.md))."),
    key("admin", "socket", Form::Path, NONE, "\"/run/schengate/admin.sock\"", "A Unix socket that answers the same, for its owner and group."),
    key("admin", "token_file", Form::Path, NONE, "\"/etc/schengate/admin.token\"", "The file of one line that whoever asks the API or the page has to know, 32 characters or more."),
    key("admin", "certificate", Form::Path, NONE, "\"admin.pem\"", "The certificates with which `address` is served over TLS, the server's own first."),
    key("admin", "key", Form::Path, NONE, "\"admin.key\"", "The private key of `certificate`."),
    key("admin", "client_ca", Form::Path, NONE, "\"admin-ca.pem\"", "Who vouches for those who ask: nobody is answered without a certificate of theirs."),
    key("admin", "names", Form::Texts, NONE, "[\"gateway.hospital.example\"]", "Names by which a browser may ask, beside IP addresses and `localhost`."),

    key("capture", "shortcut", Form::Word, "\"off\"", "\"permitted\"", "What the kernel may judge by itself, unrecorded: `off`, `permitted`, `address`."),
    key("capture", "ntp", Form::Addresses, NONE, "[\"192.0.2.123\"]", "Time servers that this host's own programs may ask (`capture --host`)."),
    key("capture", "dhcp", Form::Addresses, NONE, "[\"192.0.2.67\"]", "DHCP servers that they may ask by address."),

    key("data", "directory", Form::Path, "\"/var/lib/schengate\"", "\"/srv/schengate\"", "Where fetched and built tables live."),
    key("data", "country", Form::Paths, "[\"embedded\"]", "[\"embedded\"]", "Country tables, mmdb or CSV, best first; relative to this file."),
    key("data", "asn", Form::Paths, "[\"embedded\"]", "[\"embedded\"]", "Tables of AS numbers, best first."),
    key("data", "providers", Form::Paths, "[\"embedded\"]", "[\"embedded\"]", "Region files that providers publish; they outrank country tables."),
    key("data", "services", Form::Paths, "[\"embedded\"]", "[\"services.csv\", \"embedded\"]", "Files of what `service` in a rule names."),
    key("data", "services_key", Form::Text, "nobody checks who signed", "\"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\"", "Who must have signed the files of services."),
    key("data", "max_age", Form::Duration, "`\"180d\"` for files of providers, none for others", "\"45d\"", "The age from which a table is `stale`."),
    key("data", "max_loss", Form::Share, "\"20%\"", "\"5%\"", "What a table may lose of a permitted country's addresses before it is refused."),
    key("data", "memory", Form::Word, "\"fast\"", "\"compact\"", "`compact`: a third of the memory, look-ups of twice the time."),
    key("data", "country_field", Form::Word, "\"country\"", "\"registered_country\"", "Which country of an mmdb record counts."),
    key("data", "pack", Form::Path, NONE, "\"site.sgp\"", "A pack of tables that stands before the lists; with one, lists left out are empty."),
    key("data", "pack_key", Form::Text, "nobody checks who signed", "\"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\"", "The line that `schengate data keygen` printed."),
    key("data", "update", Form::Table, "nothing is fetched", "{ source = [{ name = \"a\", url = \"https://data.example/t.csv\", file = \"t.csv\" }] }", "What `schengate data update` fetches."),

    key("data.update", "ca", Form::Path, "the CA certificates of the host", "\"ca.pem\"", "Who vouches for the servers."),
    key("data.update", "timeout", Form::Duration, "\"10m\"", "\"1m\"", "Time for one source, from the first query to the last byte."),
    key("data.update", "max_mib", Form::Number, "256", "64", "The longest file that is taken, in MiB."),
    key("data.update", "source", Form::Tables, REQUIRED, "[{ name = \"a\", url = \"https://data.example/t.csv\", file = \"t.csv\" }]", "One for each file."),

    key("data.update.source", "name", Form::Text, REQUIRED, "\"cloud\"", "A name of its own, for `schengate data update NAME`."),
    key("data.update.source", "url", Form::Url, REQUIRED, "\"https://data.example/t.csv\"", "Where it is; judged by this very policy before it is dialled, redirects too."),
    key("data.update.source", "file", Form::Path, REQUIRED, "\"t.csv\"", "Where it goes: a file that `[data]` names."),
    key("data.update.source", "sha256", Form::Text, NONE, "\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"", "Its digest, 64 hexadecimal digits."),
    key("data.update.source", "sha256_url", Form::Url, NONE, "\"https://data.example/t.csv.sha256\"", "Where its digest is published, as `sha256sum` writes it; in place of `sha256`."),
    key("data.update.source", "key", Form::Text, NONE, "\"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\"", "The Ed25519 key of the one who signs it."),
    key("data.update.source", "signature_url", Form::Url, "`url` with `.sig` behind it", "\"https://data.example/t.csv.sig\"", "Where the signature is."),
    key("data.update.source", "credential", Form::Text, NONE, "\"linode\"", "The name of its credential in `$CREDENTIALS_DIRECTORY`."),
    key("data.update.source", "credential_file", Form::Path, NONE, "\"/etc/schengate/maxmind.key\"", "The file of one line in which its credential lies; in place of `credential`."),
    key("data.update.source", "user", Form::Text, NONE, "\"123456\"", "The user of HTTP Basic."),
    key("data.update.source", "auth", Form::Word, "\"bearer\"", "\"basic\"", "How the credential is sent: `basic`, `bearer`."),
    key("data.update.source", "header", Form::Text, NONE, "\"X-Api-Key\"", "The header whose value the credential is."),

    key("audit", "directory", Form::Path, "\"/var/lib/schengate/audit\"", "\"/srv/audit\"", "Where the record is kept; one gateway for each directory."),
    key("audit", "key", Form::Path, "`signing.key` in the directory", "\"/etc/schengate/audit.key\"", "The private key that signs checkpoints; made where there is none."),
    key("audit", "name", Form::Text, "the name of the host", "\"gw1.example.org\"", "The name of the log, for a key that is made: no blank, no `+`."),
    key("audit", "durability", Form::Word, "\"process\"", "\"disk\"", "What an `open` line survives: `process`, a kill; `disk`, a power cut."),
    key("audit", "on_failure", Form::Word, "\"block\"", "\"pass\"", "What becomes of connections that cannot be recorded: `block` (reason `record`) or `pass` (counted as a gap)."),
    key("audit", "interval", Form::Duration, "\"5m\"", "\"20s\"", "Time between two `update` records of a live connection, 20s to 1d."),
    key("audit", "checkpoint", Form::Duration, "\"1m\"", "\"10s\"", "Time between two signatures, 1s to 1d."),
    key("audit", "segment_bytes", Form::Number, "67108864", "1048576", "Size at which a segment is sealed, 64 KiB to 1 GiB."),
    key("audit", "segment_age", Form::Duration, "\"1d\"", "\"1h\"", "Age at which a segment is sealed, 1m to 366d."),
    key("audit", "retain", Form::Duration, "for ever", "\"365d\"", "Age at which sealed segments are removed, 1d or more."),
    key("audit", "register", Form::Flag, "true", "false", "Keeps the transfer register, hourly sums in SQLite."),
    key("audit", "register_names", Form::Number, "1000", "5000", "Rows with a name that the register keeps of an hour, the largest by bytes, 0 to 100000; the rest is one exact row."),
    key("audit", "register_retain", Form::Duration, "for ever", "\"1095d\"", "Age at which hours are removed from the register, 1d or more."),
    key("audit", "clients", Form::Word, "\"plain\"", "\"pseudonym\"", "How clients stand in the record: `plain`, as they are; `pseudonym`, under a key that rotates; `prefix`, their network alone."),
    key("audit", "clients_ipv4", Form::Number, "24", "16", "Bits of an IPv4 network, with `clients = \"prefix\"`, 1 to 28."),
    key("audit", "clients_ipv6", Form::Number, "48", "56", "Bits of an IPv6 network, with `clients = \"prefix\"`, 1 to 64."),
    key("audit", "pseudonym_period", Form::Duration, "\"7d\"", "\"1d\"", "How long the key of pseudonyms is good for, 1h to 366d."),
    key("audit", "pseudonym_keys", Form::Path, "`pseudonym-keys` in the directory", "\"/srv/pseudonym-keys\"", "Where the keys of pseudonyms are, a file for each period."),
    key("audit", "pseudonym_retain", Form::Duration, "for ever", "\"90d\"", "How long such a key is kept after its period; then nobody can tell any more who it was."),
    key("audit", "position", Form::Text, "nothing is held against distances", "\"48.14,11.58\"", "Where the gateway stands, a country's code or degrees north and east: a round trip that is too short for every country of a location is recorded as contradicting it."),
    key("audit", "retain_bytes", Form::Number, "no limit", "100000000000", "Size of the record above which the oldest segments are removed."),

    key("log", "connections", Form::Word, "`\"refused\"` with `[audit]`, else `\"all\"`", "\"all\"", "Lines of connections on the log: `all`, `refused`, `none`; without `[audit]` nothing but `all`."),
];

/// The names of the keys of a table, by its path; a group's `on` has the keys of the policy's.
pub(super) fn of(path: &str) -> Vec<&'static str> {
    let table = path.trim_end_matches('.');
    let table = if table == "group.on" { "policy.on" } else { table };
    KEYS.iter().filter(|key| key.table == table).map(|key| key.name).collect()
}

/// The table of docs/policy.md about one table of the file.
#[must_use]
pub fn page(table: &str) -> String {
    let mut text =
        String::from("| key | type | default | example | says |\n|---|---|---|---|---|\n");
    for key in KEYS.iter().filter(|key| key.table == table) {
        let Key { name, form, default, example, says, .. } = key;
        let default = if default.starts_with(['"', '[']) || is_value(default) {
            format!("`{default}`")
        } else {
            (*default).to_owned()
        };
        text += &format!("| `{name}` | {} | {default} | `{example}` | {says} |\n", form.label());
    }
    text
}

fn is_value(text: &str) -> bool {
    text.parse::<u64>().is_ok() || text.parse::<bool>().is_ok()
}
