//! Asks one name server one question: over UDP and, where the answer is cut, TCP; or over TLS
//! (RFC 7858). Each question has a socket, a source port and an id of its own (RFC 5452).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use super::dial;
use super::question::Question;
use crate::settings::Resolver as Server;

/// After how long without an answer a datagram is sent again (RFC 1035 §4.2.1): the answer to any of
/// them is taken, for as long as the caller waits. The last one goes without EDNS, for whom that is
/// what it does not answer.
const SENT_AGAIN: [Duration; 2] = [Duration::from_millis(700), Duration::from_millis(1_400)];

/// Datagrams that are no answer to the question, after which nobody is waited for: somebody guesses.
const STRAY_MAX: usize = 32;

/// Asks `server`, for as long as the caller waits.
///
/// # Errors
/// Where it cannot be reached, or does not answer the question.
pub(super) async fn ask(
    question: &Question,
    server: Server,
    tls: Option<&Arc<ClientConfig>>,
) -> io::Result<Message> {
    match server.tls {
        None => over_udp(question, &server).await,
        Some(name) => {
            let tls = tls.ok_or_else(|| io::Error::other("nobody vouches for the resolver"))?;
            over_stream(question, dial::tls(&server, name.to_string(), tls).await?).await
        }
    }
}

async fn over_udp(question: &Question, server: &Server) -> io::Result<Message> {
    let socket = dial::udp(server).await?;
    let mut id = random_id()?;
    let encoded = |id, edns| question.encoded(id, edns).map_err(io::Error::other);
    socket.send(&encoded(id, true)?).await?;
    let mut edns = true;
    let mut again = SENT_AGAIN.into_iter();
    let mut wait = again.next().map(|wait| Instant::now() + wait);
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let mut strays = 0;
    while strays < STRAY_MAX {
        let length = tokio::select! {
            biased;
            received = socket.recv(&mut buffer) => received?,
            () = sleep_until(wait.unwrap_or_else(Instant::now)), if wait.is_some() => {
                let next = again.next();
                edns &= next.is_some();
                socket.send(&encoded(id, edns)?).await?;
                wait = next.map(|wait| Instant::now() + wait);
                continue;
            }
        };
        let Ok(message) = Message::from_vec(buffer.get(..length).unwrap_or_default()) else {
            strays += 1;
            continue;
        };
        if edns && question.is_too_new_for(id, &message) {
            edns = false;
            id = random_id()?;
            socket.send(&encoded(id, edns)?).await?;
            continue;
        }
        if !question.is_answered_by(id, &message) {
            strays += 1;
            continue;
        }
        if message.metadata.truncation {
            return over_stream(question, dial::tcp(server).await?).await;
        }
        return Ok(message);
    }
    Err(io::Error::other("too many answers to other questions"))
}

/// Over a stream, each message behind its length (RFC 1035 §4.2.2).
async fn over_stream(
    question: &Question,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<Message> {
    let id = random_id()?;
    let query = question.encoded(id, true).map_err(io::Error::other)?;
    stream.write_all(&framed(&query)?).await?;
    stream.flush().await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    let message = Message::from_vec(&answer).map_err(io::Error::other)?;
    if !question.is_answered_by(id, &message) || message.metadata.truncation {
        return Err(io::Error::other("an answer to another question"));
    }
    Ok(message)
}

/// A message behind its length.
pub(crate) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes()[..], message].concat())
}

fn random_id() -> io::Result<u16> {
    let mut id = [0; 2];
    SystemRandom::new().fill(&mut id).map_err(|_| io::Error::other("no random numbers"))?;
    Ok(u16::from_ne_bytes(id))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::SocketAddr;
    use std::str::FromStr;

    use hickory_proto::op::{MessageType, Query};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use tokio::net::{TcpListener, UdpSocket};

    use super::*;

    fn asking() -> Question {
        let name = Name::from_str("pacs.example.").unwrap();
        Question::own(Query::query(name, RecordType::A))
    }

    /// The answer to a query, with this last byte of its address.
    fn answer(query: &[u8], last: u8) -> Message {
        let mut message = Message::from_vec(query).unwrap();
        let name = message.queries[0].name().clone();
        message.metadata.message_type = MessageType::Response;
        message.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, last))));
        message
    }

    fn plain(at: SocketAddr) -> Server {
        Server { at, tls: None }
    }

    fn told(answered: io::Result<Message>) -> String {
        answered.unwrap().answers[0].data.to_string()
    }

    #[tokio::test]
    async fn only_the_answer_to_the_question_is_taken() {
        let server = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let at = server.local_addr().unwrap();
        let answers = async {
            let mut query = [0; 512];
            let (length, client) = server.recv_from(&mut query).await.unwrap();
            let good = answer(&query[..length], 1);
            let mut other_id = good.clone();
            other_id.metadata.id = good.metadata.id.wrapping_add(1);
            let mut other_name = answer(&query[..length], 3);
            let other = Name::from_str("other.example.").unwrap();
            other_name.queries.clear();
            other_name.add_query(Query::query(other, RecordType::A));
            let mut question = good.clone();
            question.metadata.message_type = MessageType::Query;
            for forged in [other_id, other_name, question] {
                server.send_to(&forged.to_vec().unwrap(), client).await.unwrap();
            }
            server.send_to(b"junk", client).await.unwrap();
            // Another sender than the one that was asked.
            let stranger = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
            let forged = answer(&query[..length], 4);
            stranger.send_to(&forged.to_vec().unwrap(), client).await.unwrap();
            server.send_to(&good.to_vec().unwrap(), client).await.unwrap();
        };
        let asking = asking();
        let (answered, ()) = tokio::join!(ask(&asking, plain(at), None), answers);
        assert_eq!(told(answered), "192.0.2.1");
    }

    #[tokio::test]
    async fn ids_and_source_ports_are_not_those_of_the_query_before() {
        let server = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let at = server.local_addr().unwrap();
        let (mut ids, mut ports) = (HashSet::new(), HashSet::new());
        let asking = asking();
        for _ in 0..32 {
            let answers = async {
                let mut query = [0; 512];
                let (length, client) = server.recv_from(&mut query).await.unwrap();
                ids.insert([query[0], query[1]]);
                ports.insert(client.port());
                let answer = answer(&query[..length], 1).to_vec().unwrap();
                server.send_to(&answer, client).await.unwrap();
            };
            let (answered, ()) = tokio::join!(ask(&asking, plain(at), None), answers);
            told(answered);
        }
        assert!(ids.len() >= 30 && ports.len() >= 24, "{} {}", ids.len(), ports.len());
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_is_asked_for_again_over_tcp() {
        let server = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let at = server.local_addr().unwrap();
        let listener = TcpListener::bind(at).await.unwrap();
        let answers = async {
            let mut query = [0; 512];
            let (length, client) = server.recv_from(&mut query).await.unwrap();
            let cut = answer(&query[..length], 1).truncate().to_vec().unwrap();
            server.send_to(&cut, client).await.unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut query = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut query).await.unwrap();
            let whole = answer(&query, 2).to_vec().unwrap();
            stream.write_all(&framed(&whole).unwrap()).await.unwrap();
        };
        let asking = asking();
        let (answered, ()) = tokio::join!(ask(&asking, plain(at), None), answers);
        assert_eq!(told(answered), "192.0.2.2");
    }

    #[tokio::test]
    async fn a_server_over_tls_is_believed_only_with_its_own_certificate() {
        use super::super::tls::{client, server};
        use crate::identify::HostName;

        let (at, roots) = server("dns.example").await;
        let roots = client(roots);
        for (name, believed) in [("dns.example", true), ("other.example", false)] {
            let tls = Some(HostName::parse(name.as_bytes()).unwrap());
            let answered = ask(&asking(), Server { at, tls }, Some(&roots)).await;
            assert_eq!(answered.is_ok(), believed, "{name}");
        }
    }

    #[tokio::test]
    async fn a_server_over_tls_for_which_nobody_vouches_is_not_asked() {
        let tls = Some(crate::identify::HostName::parse(b"dns.example").unwrap());
        let at = "127.0.0.1:9".parse().unwrap();
        let fault = ask(&asking(), Server { at, tls }, None).await.unwrap_err();
        assert!(fault.to_string().contains("vouches"), "{fault}");
    }
}
