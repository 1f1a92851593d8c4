//! Tells a refused client so, in the protocol that it speaks (docs/policy.md §4). Never asks why: the
//! denial is the reason.

use std::fmt::Write;
use std::time::Duration;

use tokio::time::timeout;

use super::http::{Client, Held};
use crate::account::notice::{Failure, NOTICE_POLICY, sf_string};
use crate::account::{End, Facts, Named, Notice, Record};
use crate::identify::Protocol;
use crate::identify::tls::ACCESS_DENIED;
use crate::net::close::{self, Bounds};
use crate::net::socket::TcpSocket;
use crate::policy::{Denial, Policy};

/// How long, and for how many bytes, a client that was answered may go on sending. To close on
/// unread bytes is a reset, which would overtake the answer.
const LINGER: Bounds = Bounds {
    silence: Duration::from_secs(1),
    time: Duration::from_secs(10),
    bytes: 64 * 1024 * 1024,
};

/// Why a connection goes no further.
#[derive(Debug)]
pub(super) enum Rejection {
    /// It is refused, and this is what the client is told.
    Refused(Box<Refusal>),
    /// It ended before, or without, a verdict.
    Ended(End),
}

/// How and what a refused client is told. The notice is made from a denial alone.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) protocol: Protocol,
    pub(super) notice: Notice,
}

impl Rejection {
    /// The refusal of a client that speaks `protocol`.
    pub(super) fn refused(protocol: Protocol, notice: Notice) -> Self {
        Self::Refused(Box::new(Refusal { protocol, notice }))
    }
}

/// What the record and the policy say of a denial; `policy` is the one that gave it, where one did.
pub(super) fn notice(denial: Denial, record: &Record, policy: Option<&Policy>) -> Notice {
    let verdict = *denial.verdict();
    let judged = record.judgement();
    let facts = judged.map(|judged| judged.context.facts());
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let place = |facts: &Facts<'_>| match (facts.place.anycast, facts.place.codes.is_empty()) {
        (true, _) => "anycast".to_owned(),
        (false, true) => "unknown".to_owned(),
        (false, false) => facts.place.codes.to_string(),
    };
    Notice {
        reason: verdict.reason(),
        place: facts.as_ref().map_or_else(|| "unknown".to_owned(), place),
        host: owned(judged.and_then(|judged| judged.name.as_ref()).map(Named::host)),
        // What is refused by its name alone has none.
        destination: Some(verdict.destination())
            .filter(|at| !at.ip().is_unspecified())
            .map(|at| at.to_string()),
        rule: owned(facts.as_ref().and_then(|facts| facts.rule)),
        group: owned(facts.as_ref().and_then(|facts| facts.group)),
        policy: owned(facts.as_ref().and_then(|facts| facts.policy)),
        event: record.id(),
        contact: owned(policy.and_then(Policy::contact)),
        ask_url: owned(policy.and_then(Policy::ask_url)),
    }
}

/// A whole HTTP/1.1 answer to the request whose head is `request`. HTML for those who ask for it, text
/// for those who ask for that alone, else problem+json (RFC 9457).
pub(super) fn response(notice: &Notice, request: &[u8]) -> Vec<u8> {
    let form = Form::wanted(request);
    let body = match form {
        Form::Html => notice.html(),
        Form::Text => notice.text(),
        Form::Json => format!("{}\n", notice.json()),
    };
    let mut more = String::new();
    if notice.is_passing() {
        more.push_str("Retry-After: 5\r\n");
    }
    if let Some(link) = notice.blocked_by() {
        // Into a string nothing fails.
        write!(more, "Link: {link}\r\n").ok();
    }
    let (status, title) = notice.status();
    answer(Status(status, title), &notice.proxy_status(), form, &more, &body, request)
}

/// In which form a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Html,
    Text,
    Json,
}

impl Form {
    /// What the request whose head this is asks for.
    fn wanted(request: &[u8]) -> Self {
        let accept = header(request, b"accept").unwrap_or_default();
        let asks_for = |media_type: &[u8]| {
            accept.windows(media_type.len()).any(|word| word.eq_ignore_ascii_case(media_type))
        };
        if asks_for(b"text/html") {
            Self::Html
        } else if asks_for(b"text/plain") && !asks_for(b"json") {
            Self::Text
        } else {
            Self::Json
        }
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Text => "text/plain; charset=utf-8",
            Self::Json => "application/problem+json",
        }
    }

    /// Whole field lines that go with it.
    fn fields(self) -> String {
        let policy: &str = &NOTICE_POLICY;
        let of_a_page = match self {
            Self::Html => {
                format!("Content-Security-Policy: {policy}\r\nReferrer-Policy: no-referrer\r\n")
            }
            Self::Text | Self::Json => String::new(),
        };
        of_a_page + "X-Content-Type-Options: nosniff\r\n"
    }
}

/// A status and its title.
#[derive(Debug, Clone, Copy)]
pub(super) struct Status(pub(super) u16, pub(super) &'static str);

pub(super) const BAD_REQUEST: Status = Status(400, "Bad Request");
pub(super) const BAD_GATEWAY: Status = Status(502, "Bad Gateway");
pub(super) const TIMEOUT: Status = Status(504, "Gateway Timeout");
pub(super) const UNAVAILABLE: Status = Status(503, "Service Unavailable");

/// What a client may do where trying again may help.
pub(super) const LATER: &str = "Try again in some seconds. If it lasts, tell those who run this \
                                network, and give them the event id.";

/// What a client may do whose request cannot be read.
pub(super) const FROM_A_PROGRAM: &str =
    "The program that sent it has to change it; trying again does not help.";

/// What a request was for, and the event id of its record.
pub(super) struct Purpose {
    pub(super) host: Option<String>,
    /// The address and port that was judged.
    pub(super) destination: Option<String>,
    pub(super) event: String,
}

impl Purpose {
    /// As the record has it.
    pub(super) fn of(record: &Record) -> Self {
        let judged = record.judgement();
        let name = judged.and_then(|judged| judged.name.as_ref());
        let at = judged.map(|judged| judged.verdict.destination());
        Self {
            host: name.map(|name| name.host().to_owned()),
            destination: at.filter(|at| !at.ip().is_unspecified()).map(|at| at.to_string()),
            event: record.id(),
        }
    }

    /// `You asked for`, in words.
    fn said(&self) -> String {
        match (&self.host, &self.destination) {
            (Some(host), Some(at)) => format!("You asked for {host} ({at}). "),
            (Some(one), None) | (None, Some(one)) => format!("You asked for {one}. "),
            (None, None) => String::new(),
        }
    }
}

/// Why a request could not be served: a status, an error type of RFC 9209, and what happened in some
/// words.
pub(super) struct Unserved<'a>(pub(super) Status, pub(super) &'a str, pub(super) &'a str);

impl Unserved<'_> {
    /// A whole answer of the gateway's own to the request whose head is `request`, in the form that it
    /// asks for. `sentence` is what happened, where that is not what is asked for and the words.
    pub(super) fn answer(
        &self,
        asked: Purpose,
        sentence: Option<String>,
        what_to_do: &'static str,
        request: &[u8],
    ) -> Vec<u8> {
        let &Self(status, error, detail) = self;
        let proxy_status = format!("schengate; error={error}; details={}", sf_string(detail));
        let said = || format!("{}What went wrong: {detail}.", asked.said());
        let failure = Failure {
            status: (status.0, status.1),
            detail: detail.to_owned(),
            what: sentence.unwrap_or_else(said),
            what_to_do,
            host: asked.host,
            event: asked.event,
        };
        let form = Form::wanted(request);
        let body = match form {
            Form::Html => failure.html(),
            Form::Text => failure.text(),
            Form::Json => format!("{}\n", failure.json()),
        };
        answer(status, &proxy_status, form, "", &body, request)
    }
}

/// An answer after which the connection closes, so that whatever was sent behind the request is not
/// taken for another one. `more`: whole field lines.
fn answer(
    status: Status,
    proxy_status: &str,
    form: Form,
    more: &str,
    body: &str,
    request: &[u8],
) -> Vec<u8> {
    let Status(code, title) = status;
    let (media_type, fields) = (form.media_type(), form.fields());
    let head = format!(
        "HTTP/1.1 {code} {title}\r\nProxy-Status: {proxy_status}\r\nContent-Type: {media_type}\r\n\
         Content-Length: {}\r\nCache-Control: no-store\r\n{fields}{more}Connection: close\r\n\r\n",
        body.len()
    );
    let head = if request.starts_with(b"HEAD ") { head } else { head + body };
    head.into_bytes()
}

/// Refuses a client, of which `seen` was read, in the way of the protocol that it speaks.
pub(super) async fn run(client: TcpSocket, seen: &[u8], refusal: Refusal, silent: bool) -> End {
    let Refusal { protocol, notice } = refusal;
    if silent {
        close(client);
        return End::Refused;
    }
    match protocol {
        Protocol::Tls => say(client, &ACCESS_DENIED).await,
        // HTTP/2 with prior knowledge: an HTTP/1 answer would be noise to it.
        Protocol::Http if !seen.starts_with(b"PRI ") => {
            let client = Client::new(client, Held::default());
            client.last(&response(&notice, seen)).await;
        }
        Protocol::Http | Protocol::Quic | Protocol::Dtls | Protocol::Other => drop(client),
    }
    End::Refused
}

/// Closes without a word.
pub(super) fn close(client: TcpSocket) {
    client.end_in_order();
}

/// Sends the last bytes that a client gets, and closes so that they arrive.
pub(super) async fn say(client: TcpSocket, last: &[u8]) {
    // A client that does not listen is not waited for; it was refused all the same.
    let said = timeout(LINGER.time, client.write_all(last)).await;
    if said.is_ok_and(|said| said.is_ok()) {
        close::in_stages(&client, &LINGER).await;
    }
}

/// The value of a header in the first bytes of an HTTP/1 request; names are compared without case.
fn header<'a>(request: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    request
        .split(|&byte| byte == b'\n')
        .skip(1)
        .take_while(|line| !line.trim_ascii().is_empty())
        .find_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            let (field, value) = line.split_at_checked(colon)?;
            field
                .eq_ignore_ascii_case(name)
                .then(|| value.get(1..).unwrap_or_default().trim_ascii())
        })
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::policy::Reason;

    fn notice() -> Notice {
        Notice {
            reason: Reason::Outside,
            place: "US".to_owned(),
            host: None,
            destination: Some("198.51.100.7:80".to_owned()),
            group: None,
            policy: None,
            ask_url: None,
            rule: Some("no <\"clouds\">\r\n".to_owned()),
            event: "1a-7".to_owned(),
            contact: Some("it@hospital.example".to_owned()),
        }
    }

    /// All that a client sees which sent `sent` and is refused as `protocol`.
    async fn seen_by_client(sent: &[u8], protocol: Protocol, silent: bool) -> io::Result<Vec<u8>> {
        let (mut client, socket) = TcpSocket::pair().await;
        client.write_all(sent).await?;
        let refused = async {
            let refusal = Refusal { protocol, notice: notice() };
            run(socket, sent, refusal, silent).await
        };
        let mut answer = Vec::new();
        let heard = async {
            let read = client.read_to_end(&mut answer).await;
            drop(client);
            read
        };
        let (end, read) = tokio::join!(refused, heard);
        assert_eq!(end, End::Refused);
        read.map(|_| answer)
    }

    #[tokio::test(flavor = "local")]
    async fn tls_gets_an_alert_and_a_close_though_its_bytes_were_not_all_read() {
        let answer = seen_by_client(&[22; 5000], Protocol::Tls, false).await.unwrap();
        assert_eq!(answer, [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x31]);
    }

    #[tokio::test(flavor = "local")]
    async fn other_bytes_get_a_reset() {
        let answer = seen_by_client(b"", Protocol::Other, false).await;
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let http2 = seen_by_client(b"PRI * HTTP/2.0\r\n", Protocol::Http, false).await;
        assert_eq!(http2.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test(flavor = "local")]
    async fn a_silent_listener_says_nothing() {
        for protocol in [Protocol::Tls, Protocol::Http, Protocol::Other] {
            assert_eq!(seen_by_client(b"", protocol, true).await.unwrap(), b"");
        }
    }

    #[tokio::test(flavor = "local")]
    async fn http_gets_a_451_that_says_why() {
        let request = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let answer = seen_by_client(request, Protocol::Http, false).await.unwrap();
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 451 "), "{head}");
        let status = "Proxy-Status: schengate; error=http_request_denied; \
                      details=\"reason=outside; place=US; rule=no <\\\"clouds\\\">??; event=1a-7\"";
        assert!(head.contains(status), "{head}");
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["reason"], "outside");
        assert_eq!(problem["event"], "1a-7");
        assert_eq!(problem["contact"], "it@hospital.example");
        assert_eq!(problem["retry"], false);
        assert!(head.contains("Link: <mailto:it@hospital.example>; rel=\"blocked-by\""), "{head}");
        assert!(!head.contains("Retry-After"), "{head}");
    }

    #[test]
    fn a_browser_gets_a_page_without_markup_of_others() {
        let request = b"GET / HTTP/1.1\r\nACCEPT:  text/HTML,*/*\r\n\r\naccept: none";
        let answer = String::from_utf8(response(&notice(), request)).unwrap();
        assert!(answer.contains("Content-Type: text/html"), "{answer}");
        assert!(answer.contains("no &lt;&quot;clouds&quot;&gt;"), "{answer}");
        assert!(!answer.contains("<script"), "{answer}");
        assert!(answer.contains("Content-Security-Policy: default-src 'none'; style-src 'sha256-"));
        let text = b"GET / HTTP/1.1\r\nAccept: text/plain\r\n\r\n";
        let answer = String::from_utf8(response(&notice(), text)).unwrap();
        assert!(answer.contains("Content-Type: text/plain"), "{answer}");
        assert!(answer.contains("Trying again does not help"), "{answer}");
    }

    #[test]
    fn head_gets_the_length_and_no_body() {
        let answer = response(&notice(), b"HEAD / HTTP/1.1\r\n\r\n");
        assert!(answer.ends_with(b"\r\n\r\n"), "{}", answer.escape_ascii());
    }

    #[test]
    fn an_overload_is_503_and_says_when_to_try_again() {
        let notice = Notice { reason: Reason::Overload, ..notice() };
        let answer = String::from_utf8(response(&notice, b"GET / HTTP/1.1\r\n\r\n")).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
        assert!(answer.contains("\r\nRetry-After: "), "{answer}");
        assert!(answer.contains("error=connection_limit_reached"), "{answer}");
        assert!(answer.contains("\"status\":503"), "{answer}");
    }
}
