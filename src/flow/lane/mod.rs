//! The lane: the first packet of a flow waits in the kernel until it is judged; what is permitted is
//! then carried by the kernel alone, and recorded all the same (docs/lane.md).
//!
//! ```text
//!  queue.rs   packets in, verdicts out: one queue or more for each worker
//!  walk.rs    judged by the same policy; a permit becomes a mark of the connection
//!  named.rs   where a name decides: the first flight is held, read, and judged
//!  table.rs   the flows that are carried, by the addresses that the kernel knows them by
//!  watch.rs   a thread of its own: ends and counters from the kernel, and the mark kept alive
//! ```

mod named;
mod queue;
mod table;
mod walk;
mod watch;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::sleep;

use self::queue::Queue;
use self::walk::Lane;
use self::watch::{Pulse, Told, Watch};
use super::listener::Listener;
use super::worker::Worker;
use crate::account::{Account, LaneLoss};
use crate::settings;
use crate::sys::{Conntrack, PacketQueue};

pub(super) use self::watch::Watching;

/// Packets that wait in one queue; more are dropped.
const ROOM: u32 = 16_384;

/// Time between two signs of life of a worker.
const SIGN_EVERY: Duration = Duration::from_millis(100);

/// What a worker has of a lane, before it runs.
pub(super) struct Part {
    queues: Vec<PacketQueue>,
    listener: Listener,
    conntrack: Conntrack,
    /// The connection mark of what is carried.
    mark: u32,
    on_death: settings::OnDeath,
    told: UnboundedReceiver<Told>,
    pulse: Arc<Pulse>,
}

impl Part {
    pub(super) const fn listener(&self) -> &Listener {
        &self.listener
    }
}

/// Takes the queues, for so many workers, and begins to watch what the kernel carries.
///
/// # Errors
/// A queue that somebody else reads, or that the kernel does not give; its number is in the text.
pub(super) fn open(
    lane: &settings::Lane,
    listener: &Listener,
    workers: usize,
    account: Account,
) -> io::Result<(Vec<Part>, Watching)> {
    let mut queues: Vec<Vec<PacketQueue>> = Vec::new();
    queues.resize_with(workers, Vec::new);
    for (at, number) in lane.queues.clone().enumerate() {
        let queue = PacketQueue::bind(number, ROOM).map_err(|fault| {
            let needs = if fault.kind() == io::ErrorKind::AddrInUse {
                "; write other numbers: queues = \"FIRST-LAST\""
            } else if fault.kind() == io::ErrorKind::PermissionDenied {
                "; a lane needs CAP_NET_ADMIN (schengate-lane.conf)"
            } else {
                "; a lane needs a kernel with nfnetlink_queue"
            };
            io::Error::new(fault.kind(), format!("lane: queue {number}: {fault}{needs}"))
        })?;
        if let Some(of_worker) = queues.get_mut(at % workers.max(1)) {
            of_worker.push(queue);
        }
    }
    let (mut parts, mut heard) = (Vec::new(), Vec::new());
    let mark = watch::new_mark().map_err(|fault| {
        io::Error::new(fault.kind(), format!("lane: the kernel's connections: {fault}"))
    })?;
    for queues in queues {
        let (tell, told) = unbounded_channel();
        let pulse = Arc::<Pulse>::default();
        heard.push((tell, Arc::clone(&pulse)));
        parts.push(Part {
            queues,
            listener: listener.clone(),
            conntrack: Conntrack::open()?,
            mark,
            on_death: lane.on_death,
            told,
            pulse,
        });
    }
    let watching = Watch::start(lane, mark, heard, account)?;
    Ok((parts, watching))
}

/// Judges what comes to the queues of a worker, until one of them breaks; to stop, drop the future.
/// What is carried goes on, and its records end as the others of the worker do.
pub(super) async fn run(part: Part, worker: Rc<Worker>) -> io::Error {
    let Part { queues, listener, conntrack, mark, on_death, told, pulse } = part;
    let lane =
        Lane::new(Rc::clone(&worker), listener, conntrack, mark, on_death, Arc::clone(&pulse));
    let failed = pulse.failed_later();
    spawn_local(show_life(Arc::clone(&pulse)));
    spawn_local(hear(told, Rc::clone(&lane)));
    let mut reading = JoinSet::new();
    for packets in queues {
        let queue = match Queue::new(packets) {
            Ok(queue) => queue,
            Err(fault) => return fault,
        };
        let (lane, worker) = (Rc::clone(&lane), Rc::clone(&worker));
        reading.spawn_local(async move {
            let lost = || worker.account.metrics().lane_lost(LaneLoss::Packets);
            queue.read(|packet| lane.take(&queue, &packet), lost).await
        });
    }
    // A worker without a queue has nothing that could break.
    let broken = async {
        match reading.join_next().await {
            Some(Ok(fault)) => fault,
            Some(Err(fault)) => io::Error::other(fault),
            None => std::future::pending().await,
        }
    };
    let fault = tokio::select! {
        fault = broken => fault,
        fault = failed => fault,
    };
    // From here on nobody says that this worker lives: what is carried stops.
    pulse.fail();
    io::Error::new(fault.kind(), format!("lane: {fault}"))
}

/// Says that the worker lives, as long as it does.
async fn show_life(pulse: Arc<Pulse>) {
    while !pulse.has_failed() {
        pulse.lives_on();
        sleep(SIGN_EVERY).await;
    }
}

/// Hears what the kernel says of the connections, until nobody tells any more.
async fn hear(mut told: UnboundedReceiver<Told>, lane: Rc<Lane>) {
    while let Some(told) = told.recv().await {
        match told {
            Told::Ended(ended) => ended.iter().for_each(|tracked| lane.forgotten(tracked)),
            Told::Listed(listed, at) => lane.seen(&listed, at),
            Told::Found(tracked) => lane.take_over(&tracked),
        }
    }
}
