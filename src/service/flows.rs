//! Ties the API of the admin listener to the live connections of the data plane.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::account::live::{By, Listed, Selection, Total};
use crate::control::admin::Flows;
use crate::flow::Connections;

/// The data plane's own, as the admin listener asks for them.
#[derive(Debug)]
pub(super) struct OfPlane(pub(super) Connections);

impl Flows for OfPlane {
    fn list(&self, wanted: &Arc<Selection>) -> Vec<oneshot::Receiver<Listed>> {
        self.0.list(wanted)
    }

    fn totals(&self, by: By) -> Vec<oneshot::Receiver<HashMap<String, Total>>> {
        self.0.totals(by)
    }

    fn kill(&self, sequence: u64) -> Vec<oneshot::Receiver<bool>> {
        self.0.kill(sequence)
    }
}
