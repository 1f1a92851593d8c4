//! What the page shows, gathered from the answers of the API.

use serde_json::Value;
use url::form_urlencoded;

use super::console::Console;
use super::page::{Question, Shown};
use super::parameters::Wrong;
use super::{api, events, live};
use crate::account::live::By;

/// Live connections and refusals that the page lists.
const LISTED: usize = 25;

/// Rows of the largest uploads.
const TOP: usize = 12;

/// What a request for the page asks for beside it.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Without the shapes of the map.
    pub(super) parts: bool,
    by: Option<By>,
    question: Option<Question>,
}

impl Wishes {
    /// Reads them; what is not known is passed over, since people write addresses.
    pub(super) fn read(query: &str) -> Self {
        let mut wishes = Self::default();
        let mut question = Question::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.trim().to_owned();
            match &*name {
                "parts" => wishes.parts = value == "1",
                "by" => wishes.by = By::ALL.into_iter().find(|by| by.label() == value),
                "host" => question.host = value,
                "to" => question.to = value,
                "client" => question.client = value,
                _ => {}
            }
        }
        let is_asked = !question.host.is_empty() || !question.to.is_empty();
        wishes.question = is_asked.then_some(question);
        wishes
    }
}

/// Everything, as far as it is known now.
pub(super) async fn shown(console: &Console, wishes: &Wishes) -> Shown {
    let by = wishes.by.unwrap_or(By::Destination).label();
    let known = |answer: Result<Value, Wrong>| answer.unwrap_or_default();
    let asked = match &wishes.question {
        None => None,
        Some(question) => {
            let query = form_urlencoded::Serializer::new(String::new())
                .append_pair("host", &question.host)
                .append_pair("to", &question.to)
                .append_pair("client", &question.client)
                .finish();
            let answer = events::explain(console, &query).await;
            Some((question.clone(), answer.map_err(|wrong| wrong.1)))
        }
    };
    Shown {
        state: known(api::state(console)),
        verdicts: api::verdicts(console),
        top: known(live::top(console, &format!("by={by}&limit={TOP}")).await),
        refusals: known(events::refusals(console, &format!("limit={LISTED}"))),
        connections: known(live::connections(console, &format!("order=up&limit={LISTED}")).await),
        waivers: known(api::waivers(console)),
        tables: known(api::tables(console)),
        record: api::record(console),
        policy: known(api::policy(console)),
        asked,
        by,
        missing: console.health.missing(),
        facts: console.health.facts(),
    }
}
