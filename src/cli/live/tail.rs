//! `schengate tail`: what is refused, as it happens.

use std::io::{self, Write};

use serde_json::Value;

use super::api::{Reach, block_on, parameters};
use super::shown::{first, line, place, text, unanswered};
use crate::account::notice::printable;
use crate::cli::common::Exit;

/// Arguments of `tail`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Tail {
    #[command(flatten)]
    reach: Reach,
    /// What was let go as well
    #[arg(long)]
    all: bool,
    /// For this reason
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// That may land in this country
    #[arg(long, value_name = "CODE")]
    country: Option<String>,
    /// Of this client
    #[arg(long, value_name = "IP")]
    client: Option<std::net::IpAddr>,
    /// Refusals of before that are shown first
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(0..=500))]
    lines: u16,
    /// End after so many, those of before included; without it: never
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

impl Tail {
    fn takes(&self, event: &Value) -> bool {
        let client = |client: std::net::IpAddr| {
            let at =
                event["client"].as_str().and_then(|at| at.parse::<std::net::SocketAddr>().ok());
            at.is_some_and(|at| at.ip() == client)
        };
        let country = |code: &String| {
            let codes = event["location"].as_array().into_iter().flatten();
            codes.filter_map(Value::as_str).any(|known| known.eq_ignore_ascii_case(code))
        };
        self.reason.as_ref().is_none_or(|reason| event["reason"] == **reason)
            && self.country.as_ref().is_none_or(country)
            && self.client.is_none_or(client)
    }

    fn show(&self, event: &Value, out: &mut impl Write) -> io::Result<()> {
        if self.json {
            writeln!(out, "{}", printable(&event.to_string()))?;
        } else {
            line(out, &said(event))?;
        }
        // Whoever looks on waits for each line.
        out.flush()
    }
}

/// An event on one line.
fn said(event: &Value) -> String {
    let time = text(&event["time"]);
    let time = time.get(11..19).unwrap_or(&time);
    let verdict = first([&event["would"], &event["verdict"], &event["end"]]);
    let observed = if event["would"].is_null() { "" } else { " (observed)" };
    let host = text(&event["host"]);
    let to = text(&event["destination"]);
    let to = if host.is_empty() { to } else { format!("{host} ({to})") };
    format!(
        "{time} {verdict}{observed} {} {} {} -> {to} [{}]",
        first([&event["reason"]]),
        place(event),
        text(&event["client"]),
        text(&event["id"]),
    )
}

pub(super) fn run(arguments: &Tail, out: &mut impl Write) -> io::Result<Exit> {
    let api = match arguments.reach.api() {
        Ok(api) => api,
        Err(fault) => return Ok(unanswered(&fault)),
    };
    let most = arguments.count.unwrap_or(usize::MAX);
    let query = parameters([
        ("limit", Some(arguments.lines.max(1).to_string())),
        ("reason", arguments.reason.clone()),
        ("country", arguments.country.clone()),
        ("client", arguments.client.map(|client| client.to_string())),
    ]);
    let mut broken = Ok(());
    let mut shown = 0;
    let followed = block_on(async {
        let before = api.get(&format!("refusals?{query}")).await?;
        let rows = before["refusals"].as_array().map(Vec::as_slice).unwrap_or_default();
        let rows: Vec<&Value> = rows.iter().take(arguments.lines.into()).collect();
        for row in rows.into_iter().rev().take(most) {
            broken = arguments.show(row, out);
            shown += 1;
            if broken.is_err() {
                return Ok(());
            }
        }
        let path = if arguments.all { "stream?all=true" } else { "stream" };
        // The gateway ends a stream after an hour; it is then asked for again.
        while shown < most {
            let goes_on = api
                .stream(path, |kind, event| {
                    if kind == "missed" {
                        eprintln!("{} more came than could be told", text(&event["count"]));
                    }
                    if kind == "decision" && arguments.takes(event) {
                        broken = arguments.show(event, out);
                        shown += 1;
                    }
                    broken.is_ok() && shown < most
                })
                .await?;
            if !goes_on {
                break;
            }
        }
        Ok(())
    });
    broken?;
    Ok(match followed {
        Ok(()) => Exit::Yes,
        Err(fault) => unanswered(&fault),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_is_one_line_and_says_what_matters() {
        let event = json!({
            "time": "2026-11-30T17:31:02.123Z", "verdict": "block", "would": null,
            "reason": "outside", "location": ["US"], "anycast": false,
            "client": "10.0.0.7:40000", "host": "a\n.example", "destination": "198.51.100.1:443",
            "id": "1a-7",
        });
        assert_eq!(
            said(&event),
            "17:31:02 block outside US 10.0.0.7:40000 -> a\\n.example (198.51.100.1:443) [1a-7]"
        );
    }
}
