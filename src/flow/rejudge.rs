//! Judges live connections again, when the policy has changed.

use std::rc::Rc;

use tokio::task::{spawn_local, yield_now};
use tokio::time::sleep;

use super::evaluate::{evaluate_cached, evaluate_with_dns, now_ms};
use super::registry::Reevaluation;
use super::worker::Worker;
use crate::account::End;
use crate::policy::Action;

/// Connections that are judged again between two chances for the others of the worker.
const TURN_SHARE: usize = 256;

impl Worker {
    /// Judges every live connection by the policy that is now in force, and ends those that it no
    /// longer permits, after the policy's grace.
    pub(super) async fn rejudge(self: &Rc<Self>) {
        for (done, handle) in self.registry.begin_turn().into_iter().enumerate() {
            if done % TURN_SHARE == TURN_SHARE - 1 {
                yield_now().await;
            }
            let subject = match handle.subject() {
                Some(Ok(subject)) => subject,
                Some(Err(_)) => {
                    handle.cut(End::PolicyChange, None);
                    continue;
                }
                None => continue,
            };
            let Ok(policy) = self.live.load(now_ms()) else {
                handle.cut(End::PolicyChange, None);
                continue;
            };
            match evaluate_cached(&policy, &subject, self.account.metrics()) {
                Some(answer) if answer.verdict.action() != Action::Block => {
                    handle.goes_on(answer.judged(&policy, &subject), &self.account);
                }
                Some(answer) if policy.grace().is_zero() => {
                    handle.cut(End::PolicyChange, Some(answer.judged(&policy, &subject)));
                }
                // The resolver or the grace has to be waited for, each connection by itself, and
                // by one task however often the policy changes meanwhile.
                Some(_) | None => {
                    if let Some(handle) = handle.begin_reevaluation() {
                        spawn_local(Rc::clone(self).rejudge_one(handle));
                    }
                }
            }
        }
    }

    async fn rejudge_one(self: Rc<Self>, handle: Reevaluation) {
        let mut waited = false;
        loop {
            let turn = self.registry.turn();
            let (Ok(policy), Some(Ok(subject))) = (self.live.load(now_ms()), handle.subject())
            else {
                return handle.cut(End::PolicyChange, None);
            };
            let answer =
                evaluate_with_dns(&policy, &subject, &self.names, self.account.metrics(), |_| ())
                    .await;
            if self.registry.turn() != turn {
                continue;
            }
            if answer.verdict.action() != Action::Block {
                return handle.goes_on(answer.judged(&policy, &subject), &self.account);
            }
            // What was permitted again within the grace goes on.
            if waited || policy.grace().is_zero() {
                return handle.cut(End::PolicyChange, Some(answer.judged(&policy, &subject)));
            }
            sleep(policy.grace()).await;
            waited = true;
        }
    }
}
