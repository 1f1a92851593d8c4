//! The addresses of this host, followed as they come and go: what the gateway gets after its start
//! (DHCP, SLAAC, a VIP) is the gateway itself at once, not from the next reload on.

use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::sys::{self, AddressWatch};

/// Time after which the list is read anew where nothing was heard.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Time between two attempts where the kernel tells nothing: as often the list is read instead.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What was heard of the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Every address, ascending; `None` where they cannot be listed.
    pub addresses: Option<Vec<IpAddr>>,
    /// Why they are not followed as they change.
    pub fault: Option<String>,
}

/// What the thread that listens to the kernel hears.
#[derive(Debug)]
pub struct Addresses {
    heard: UnboundedReceiver<Heard>,
    ended: bool,
}

impl Addresses {
    /// Begins to listen; what is there is heard first.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn follow() -> io::Result<Self> {
        let (tell, heard) = unbounded_channel();
        thread::Builder::new().name("addresses".into()).spawn(move || listen(&tell))?;
        Ok(Self { heard, ended: false })
    }

    /// The next change. May be dropped while it waits, and loses nothing.
    pub async fn next(&mut self) -> Heard {
        if !self.ended {
            if let Some(heard) = self.heard.recv().await {
                return heard;
            }
            self.ended = true;
            let fault = Some("the thread that listens has ended".to_owned());
            return Heard { addresses: None, fault };
        }
        std::future::pending().await
    }
}

fn listen(tell: &UnboundedSender<Heard>) {
    let mut watch: Option<AddressWatch> = None;
    let mut last = None;
    loop {
        let mut fault = None;
        // Before the list is read: what changes meanwhile is heard afterwards.
        if watch.is_none() {
            match AddressWatch::open() {
                Ok(opened) => watch = Some(opened),
                Err(error) => fault = Some(format!("the kernel tells of no change: {error}")),
            }
        }
        let addresses = match sys::local_addresses() {
            Ok(mut found) => {
                found.sort_unstable();
                found.dedup();
                Some(found)
            }
            Err(error) => {
                fault = Some(format!("the addresses cannot be listed: {error}"));
                None
            }
        };
        let heard = Heard { addresses, fault };
        if last.as_ref() != Some(&heard) {
            if tell.send(heard.clone()).is_err() {
                return;
            }
            last = Some(heard);
        }
        match watch.as_mut().map(|watch| watch.wait(LOOK_EVERY)) {
            Some(Ok(_)) => {}
            Some(Err(_)) => watch = None,
            None => thread::sleep(RETRY_EVERY),
        }
        if tell.is_closed() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_there_is_heard_first() {
        let heard = Addresses::follow().unwrap().next().await;
        assert_eq!(heard.fault, None);
        assert!(heard.addresses.unwrap().iter().any(IpAddr::is_loopback));
    }

    #[tokio::test]
    async fn an_end_of_the_thread_is_a_fault_and_is_told_once() {
        let (tell, heard) = unbounded_channel();
        drop(tell);
        let mut addresses = Addresses { heard, ended: false };
        assert!(addresses.next().await.fault.is_some());
        let again = tokio::time::timeout(Duration::from_millis(1), addresses.next());
        assert!(again.await.is_err());
    }
}
