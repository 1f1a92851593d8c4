//! Asks name servers of which any may answer: one first, for so long, and then the next.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use rustls::ClientConfig;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::exchange;
use super::question::Question;
use crate::settings::Resolver as Server;

/// Time for one of them to answer: what a host's own resolver has (resolv.conf(5): `timeout:5`).
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Head start of a server over the next one, which is then asked as well.
const HEAD_START: Duration = Duration::from_secs(1);

/// How long a server that did not answer is asked last.
const DOWN: Duration = Duration::from_secs(30);

/// Name servers that are asked about one question.
const ASKED_MAX: usize = 3;

/// The servers, and which of them did not answer lately.
#[derive(Debug)]
pub(crate) struct Servers {
    all: Vec<Server>,
    tls: Option<Arc<ClientConfig>>,
    /// Until when each is asked last.
    down: Mutex<Vec<Option<Instant>>>,
}

/// A server that is being asked.
struct Pending {
    at: usize,
    since: Instant,
}

impl Servers {
    /// `tls` says who may vouch for those that are asked over TLS.
    pub(super) fn new(all: Vec<Server>, tls: Option<Arc<ClientConfig>>) -> Self {
        let down = Mutex::new(vec![None; all.len()]);
        Self { all, tls, down }
    }

    /// Whether there is nobody to ask.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Asks those that `may` be asked, in order, until one answers. [`None`] where none did; a server
    /// that only says that it cannot has the word where no other one answers.
    pub(crate) async fn ask(
        &self,
        question: &Question,
        mut may: impl FnMut(Server) -> bool,
    ) -> Option<Message> {
        let question = Arc::new(question.clone());
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let order = self.order().into_iter().filter_map(|at| Some((at, *self.all.get(at)?)));
        let mut queue = order.filter(|&(_, server)| may(server)).take(ASKED_MAX).fuse();
        let mut asking: JoinSet<(usize, io::Result<Message>)> = JoinSet::new();
        let mut asked: Vec<Pending> = Vec::new();
        let mut failure = None;
        let (mut next, mut more) = (Instant::now(), true);
        loop {
            if more && next <= Instant::now() {
                match queue.next() {
                    Some((at, server)) => {
                        let (question, tls) = (Arc::clone(&question), self.tls.clone());
                        asking.spawn(async move {
                            (at, exchange::ask(&question, server, tls.as_ref()).await)
                        });
                        asked.push(Pending { at, since: Instant::now() });
                        next = Instant::now() + HEAD_START;
                    }
                    None => more = false,
                }
            }
            if asking.is_empty() && !more {
                return failure;
            }
            tokio::select! {
                Some(done) = asking.join_next() => {
                    let Ok((at, answer)) = done else { next = Instant::now(); continue };
                    asked.retain(|asked| asked.at != at);
                    match answer {
                        Ok(message) => {
                            self.mark(at, None);
                            if is_answer(&message) {
                                let slow = |asked: &&Pending| asked.since.elapsed() >= HEAD_START;
                                asked.iter().filter(slow).for_each(|slow| self.is_down(slow.at));
                                return Some(message);
                            }
                            failure.get_or_insert(message);
                        }
                        Err(fault) => {
                            tracing::debug!(%fault, at, "a name server did not answer");
                            self.is_down(at);
                        }
                    }
                    next = Instant::now();
                }
                () = sleep_until(next), if more => {}
                () = sleep_until(deadline) => {
                    asked.iter().for_each(|silent| self.is_down(silent.at));
                    return failure;
                }
            }
        }
    }

    /// Positions in the order in which they are asked: those that are down last.
    fn order(&self) -> Vec<usize> {
        let now = Instant::now();
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        order.sort_by_key(|&at| {
            down.get(at).is_some_and(|until| until.is_some_and(|until| now < until))
        });
        order
    }

    fn is_down(&self, at: usize) {
        self.mark(at, Some(Instant::now() + DOWN));
    }

    fn mark(&self, at: usize, until: Option<Instant>) {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mark) = down.get_mut(at) {
            *mark = until;
        }
    }
}

/// Whether a server settled the question, so that nobody else has to be asked.
fn is_answer(message: &Message) -> bool {
    !matches!(
        message.metadata.response_code,
        ResponseCode::ServFail
            | ResponseCode::Refused
            | ResponseCode::NotImp
            | ResponseCode::FormErr
            | ResponseCode::NotAuth
    )
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hickory_proto::op::{MessageType, OpCode, Query};
    use hickory_proto::rr::{Name, RecordType};
    use tokio::net::UdpSocket;

    use super::*;

    /// A server that answers the nth message as it is told to, and counts them.
    async fn server(
        reply: impl Fn(usize, &Message) -> Option<(Duration, Message)> + Send + 'static,
    ) -> (Server, Arc<AtomicUsize>) {
        let socket = Arc::new(UdpSocket::bind(("127.0.0.1", 0)).await.unwrap());
        let at = socket.local_addr().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            let mut bytes = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut bytes).await {
                let query = Message::from_vec(&bytes[..length]).unwrap();
                let nth = counted.fetch_add(1, Ordering::Relaxed);
                let Some((wait, message)) = reply(nth, &query) else { continue };
                let socket = Arc::clone(&socket);
                tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    socket.send_to(&message.to_vec().unwrap(), client).await.unwrap();
                });
            }
        });
        (Server { at, tls: None }, count)
    }

    fn said(query: &Message, code: ResponseCode) -> Message {
        let mut message = query.clone();
        message.metadata.message_type = MessageType::Response;
        message.metadata.response_code = code;
        message
    }

    fn now(message: Message) -> Option<(Duration, Message)> {
        Some((Duration::ZERO, message))
    }

    async fn good() -> (Server, Arc<AtomicUsize>) {
        server(|_, query| now(said(query, ResponseCode::NoError))).await
    }

    async fn silent() -> (Server, Arc<AtomicUsize>) {
        server(|_, _| None).await
    }

    /// The code of the answer, and after how many milliseconds it came.
    async fn ask(servers: &Servers) -> (Option<ResponseCode>, u128) {
        let name = Name::from_str("pacs.example.").unwrap();
        let question = Question::own(Query::query(name, RecordType::A));
        let begun = Instant::now();
        let answer = servers.ask(&question, |_| true).await;
        (answer.map(|answer| answer.metadata.response_code), begun.elapsed().as_millis())
    }

    const YES: Option<ResponseCode> = Some(ResponseCode::NoError);

    #[tokio::test(start_paused = true)]
    async fn a06_a_lost_datagram_is_sent_again_and_a_late_answer_is_taken() {
        let lost = server(|nth, query| {
            (nth > 0).then(|| said(query, ResponseCode::NoError)).and_then(now)
        });
        let (one, count) = lost.await;
        assert_eq!(ask(&Servers::new(vec![one], None)).await.0, YES);
        assert_eq!(count.load(Ordering::Relaxed), 2);
        for wait in [900, 1_100, 2_500, 4_500] {
            let wait = Duration::from_millis(wait);
            let (one, _) = server(move |nth, query| {
                (nth == 0).then(|| (wait, said(query, ResponseCode::NoError)))
            })
            .await;
            let (answer, took) = ask(&Servers::new(vec![one], None)).await;
            assert_eq!(answer, YES, "after {wait:?}");
            assert!(took >= wait.as_millis(), "{took}");
        }
        let (one, _) = silent().await;
        let (answer, took) = ask(&Servers::new(vec![one], None)).await;
        assert_eq!(answer, None);
        assert!((4_999..5_100).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a05_a_dead_server_costs_its_share_once_and_is_tried_again_later() {
        let ((one, asked), (two, _), (three, _)) = (silent().await, silent().await, good().await);
        let servers = Servers::new(vec![one, two, three], None);
        let (answer, took) = ask(&servers).await;
        assert_eq!(answer, YES);
        assert!((2_000..2_100).contains(&took), "{took}");
        let before = asked.load(Ordering::Relaxed);
        let (answer, took) = ask(&servers).await;
        assert_eq!((answer, took < 10), (YES, true), "{took}");
        assert_eq!(asked.load(Ordering::Relaxed), before, "remembered");
        tokio::time::advance(DOWN).await;
        assert_eq!(ask(&servers).await.0, YES);
        assert!(asked.load(Ordering::Relaxed) > before, "for a while");
    }

    #[tokio::test(start_paused = true)]
    async fn a06_who_says_that_he_cannot_gives_the_word_to_the_next_one() {
        for code in [ResponseCode::ServFail, ResponseCode::Refused] {
            let (one, _) = server(move |_, query| now(said(query, code))).await;
            let (two, _) = good().await;
            let (answer, took) = ask(&Servers::new(vec![one, two], None)).await;
            assert_eq!((answer, took < 10), (YES, true), "{took}");
            assert_eq!(ask(&Servers::new(vec![one], None)).await.0, Some(code));
        }
        let (one, _) = server(|_, query| now(said(query, ResponseCode::NXDomain))).await;
        let (two, count) = good().await;
        let (answer, _) = ask(&Servers::new(vec![one, two], None)).await;
        assert_eq!(answer, Some(ResponseCode::NXDomain));
        assert_eq!(count.load(Ordering::Relaxed), 0, "that is an answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a06_a_server_that_does_not_know_edns_is_asked_without() {
        // One says so, without the question; another throws it away.
        let (says, _) = server(|_, query| {
            if query.edns.is_none() {
                return now(said(query, ResponseCode::NoError));
            }
            let mut answer = Message::response(query.metadata.id, OpCode::Query);
            answer.metadata.response_code = ResponseCode::FormErr;
            now(answer)
        })
        .await;
        let (drops, _) = server(|_, query| {
            query.edns.is_none().then(|| said(query, ResponseCode::NoError)).and_then(now)
        })
        .await;
        let (answer, took) = ask(&Servers::new(vec![says], None)).await;
        assert_eq!((answer, took < 10), (YES, true), "{took}");
        assert_eq!(ask(&Servers::new(vec![drops], None)).await.0, YES);
    }
}
