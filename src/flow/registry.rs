//! Every live connection of one worker: what it asked, and how it is told to end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::Notify;

use super::judge::Asked;
use crate::account::{End, Judged};

/// The live connections of one worker.
#[derive(Debug, Default)]
pub(super) struct Registry {
    flows: RefCell<HashMap<u64, Rc<Flow>>>,
    next: Cell<u64>,
    /// How often the live connections were judged again: a connection whose policy was loaded
    /// before a turn, and which took its verdict after it, has to be judged once more.
    turns: Cell<u64>,
    fewer: Notify,
}

/// One live connection, as far as others have to know it.
#[derive(Debug, Default)]
pub(super) struct Flow {
    asked: RefCell<Option<Asked>>,
    end: Cell<Option<End>>,
    /// Boxed: few connections are ended by a verdict, and all of them hold room for it.
    judged: RefCell<Option<Box<Judged>>>,
    cut: Notify,
}

/// A connection's place in the registry, given up when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    registry: Rc<Registry>,
    key: u64,
    flow: Rc<Flow>,
}

impl Registry {
    /// Takes a place for a connection that nobody has judged yet.
    pub(super) fn seat(self: &Rc<Self>) -> Seat {
        let key = self.next.get();
        self.next.set(key + 1);
        let flow = Rc::new(Flow::default());
        self.flows.borrow_mut().insert(key, Rc::clone(&flow));
        Seat { registry: Rc::clone(self), key, flow }
    }

    /// The number of the current turn.
    pub(super) fn turn(&self) -> u64 {
        self.turns.get()
    }

    /// Begins a turn: every connection that has a verdict, with what it asked.
    pub(super) fn begin_turn(&self) -> Vec<(Rc<Flow>, Asked)> {
        self.turns.set(self.turns.get() + 1);
        let judged = |flow: &Rc<Flow>| Some((Rc::clone(flow), flow.asked.borrow().clone()?));
        self.flows.borrow().values().filter_map(judged).collect()
    }

    /// Tells every connection to end.
    pub(super) fn cut_all(&self, end: End) {
        for flow in self.flows.borrow().values() {
            flow.cut(end, None);
        }
    }

    /// Waits until no connection is left.
    pub(super) async fn emptied(&self) {
        while !self.flows.borrow().is_empty() {
            self.fewer.notified().await;
        }
    }
}

impl Flow {
    /// Tells the connection to end; `judged` is the verdict that ends it, where there is one.
    pub(super) fn cut(&self, end: End, judged: Option<Judged>) {
        if self.end.get().is_none() {
            self.end.set(Some(end));
            *self.judged.borrow_mut() = judged.map(Box::new);
            self.cut.notify_one();
        }
    }
}

impl Seat {
    /// The connection has a verdict, and this is what it asked.
    pub(super) fn judged(&self, asked: Asked) {
        *self.flow.asked.borrow_mut() = Some(asked);
    }

    /// Waits until the connection is told to end.
    pub(super) async fn cut(&self) -> End {
        loop {
            if let Some(end) = self.flow.end.get() {
                return end;
            }
            self.flow.cut.notified().await;
        }
    }

    /// The verdict that ended the connection.
    pub(super) fn last_judged(&self) -> Option<Judged> {
        self.flow.judged.borrow_mut().take().map(|judged| *judged)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.registry.flows.borrow_mut().remove(&self.key);
        self.registry.fewer.notify_one();
    }
}
