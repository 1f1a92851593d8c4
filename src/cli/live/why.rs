//! `schengate why`: one event, as the refused was told of it, and what would be decided today.

use std::io::{self, Write};

use serde_json::Value;

use super::api::{Reach, block_on, part};
use super::shown::{line, place, text, unanswered};
use crate::account::notice::printable;
use crate::cli::common::Exit;

/// Arguments of `why`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Why {
    #[command(flatten)]
    reach: Reach,
    /// The event id, as in the answer to who was refused, and in the record
    #[arg(value_name = "EVENT")]
    event: String,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Why, out: &mut impl Write) -> io::Result<Exit> {
    let asked = arguments.reach.api().and_then(|api| {
        let path = format!("events/{}", part(&arguments.event));
        block_on(async move { api.get(&path).await })
    });
    let answer = match asked {
        Ok(answer) => answer,
        Err(fault) => return Ok(unanswered(&fault)),
    };
    if arguments.json {
        writeln!(out, "{}", printable(&answer.to_string()))?;
    } else {
        say(&answer, out)?;
    }
    let today = &answer["today"];
    let is_refused = [&today["verdict"], &today["by_name"]["verdict"]].contains(&&"block".into());
    Ok(if is_refused { Exit::No } else { Exit::Yes })
}

/// What the round trip says of the location.
fn measured(event: &Value) -> String {
    let Some(round_trip) = event["rtt_min_us"].as_u64() else { return String::new() };
    let (whole, part) = (round_trip / 1000, round_trip % 1000);
    let contradicts = text(&event["rtt_contradicts"]);
    if contradicts.is_empty() {
        return format!("{whole}.{part:03} ms of round trip at the least");
    }
    format!(
        "{whole}.{part:03} ms of round trip, in which light comes back from nowhere in {contradicts}: \
         it was not there, or something nearer answered"
    )
}

fn say(answer: &Value, out: &mut impl Write) -> io::Result<()> {
    let event = &answer["event"];
    match answer["told"]["text"].as_str() {
        Some(told) => write!(out, "{}", printable(told))?,
        None => line(
            out,
            &format!(
                "{}: {} {} -> {} {}",
                text(&event["verdict"]),
                text(&event["reason"]),
                text(&event["client"]),
                text(&event["host"]),
                text(&event["destination"])
            ),
        )?,
    }
    writeln!(out)?;
    let rows = [
        ("time", text(&event["time"])),
        ("client", text(&event["client"])),
        ("group", text(&event["group"])),
        ("destination", text(&event["destination"])),
        ("name", text(&event["host"])),
        ("place", place(event)),
        ("operator", text(&event["operator"])),
        ("law", text(&event["law"])),
        ("rule", text(&event["rule"])),
        ("ground", text(&event["basis"])),
        ("policy", text(&event["policy"])),
        ("mode", text(&event["mode"])),
        ("would", text(&event["would"])),
        ("end", text(&event["end"])),
        ("measured", measured(event)),
    ];
    for (term, said) in rows.iter().filter(|(_, said)| !said.is_empty()) {
        line(out, &format!("{term:12} {said}"))?;
    }
    let today = &answer["today"];
    if today.is_null() {
        return line(out, "\ntoday        not judged: the record does not say where it was going");
    }
    if today["addresses"].is_array() {
        let by_name = &today["by_name"];
        let said = match by_name["reason"].as_str() {
            Some(reason) => {
                format!("{}: {reason}. {}", text(&by_name["verdict"]), text(&by_name["sentence"]))
            }
            None => "the name alone is not refused: it depends on its address".to_owned(),
        };
        return line(out, &format!("\ntoday        {said}"));
    }
    let rule = text(&today["rule"]);
    let rule = if rule.is_empty() { rule } else { format!(" `{rule}`") };
    line(
        out,
        &format!(
            "\ntoday        {}: {}{rule} (policy {})",
            text(&today["verdict"]),
            text(&today["reason"]),
            text(&today["policy_version"])
        ),
    )?;
    for (at, step) in today["steps"].as_array().into_iter().flatten().enumerate() {
        line(out, &format!("{:3}. {}", at + 1, text(step)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_measured_is_said_with_what_it_contradicts() {
        assert_eq!(measured(&json!({ "rtt_min_us": null })), "");
        let plain = measured(&json!({ "rtt_min_us": 12_034 }));
        assert_eq!(plain, "12.034 ms of round trip at the least");
        let told = measured(&json!({ "rtt_min_us": 900, "rtt_contradicts": ["ES", "US"] }));
        assert!(told.starts_with("0.900 ms") && told.contains("nowhere in ES US"), "{told}");
    }
}
