//! `schengate top`: what goes on now, as a screen that is drawn anew.

use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::Value;
use tokio::time::sleep;

use super::api::{Api, Fault, Reach, block_on, parameters};
use super::shown::{bytes, first, fit, line, place, span, text, unanswered};
use crate::account::live::By;
use crate::cli::common::Exit;
use crate::sys;

/// Columns and rows where the terminal tells none.
const PLAIN: (u16, u16) = (120, 40);

/// Takes the cursor home, and clears what stands behind a line, or below the last one.
const HOME: &str = "\x1b[H";
const END_OF_LINE: &str = "\x1b[K";
const BELOW: &str = "\x1b[J";
const CLEAR: &str = "\x1b[2J";

/// Arguments of `top`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Top {
    #[command(flatten)]
    reach: Reach,
    /// What bytes are added up by
    #[arg(long, default_value = By::Destination.label(), value_parser = by())]
    by: By,
    /// Where most bytes come from, instead of where they go
    #[arg(long)]
    down: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=3600))]
    interval: u16,
    /// One look, and no more; so it is where the answer goes to no terminal
    #[arg(long)]
    once: bool,
}

fn by() -> impl TypedValueParser<Value = By> {
    PossibleValuesParser::new(By::ALL.map(By::label))
        .map(|label| By::ALL.into_iter().find(|by| by.label() == label).unwrap_or(By::Destination))
}

pub(super) fn run(arguments: &Top, out: &mut impl Write) -> io::Result<Exit> {
    let api = match arguments.reach.api() {
        Ok(api) => api,
        Err(fault) => return Ok(unanswered(&fault)),
    };
    let is_terminal = io::stdout().is_terminal();
    if !is_terminal || arguments.once {
        return match block_on(look(&api, arguments, PLAIN)) {
            Ok(screen) => {
                for text in screen {
                    line(out, &text)?;
                }
                Ok(Exit::Yes)
            }
            Err(fault) => Ok(unanswered(&fault)),
        };
    }
    write!(out, "{CLEAR}")?;
    let mut written = Ok(());
    let ended = block_on(async {
        loop {
            let size = sys::terminal_size().unwrap_or(PLAIN);
            let screen = look(&api, arguments, size).await?;
            written = draw(&screen, size, out);
            if written.is_err() {
                return Ok(());
            }
            sleep(Duration::from_secs(arguments.interval.into())).await;
        }
    });
    written?;
    Ok(match ended {
        Ok(()) => Exit::Yes,
        Err(fault) => unanswered(&fault),
    })
}

fn draw(screen: &[String], (columns, rows): (u16, u16), out: &mut impl Write) -> io::Result<()> {
    write!(out, "{HOME}")?;
    let room = usize::from(rows.saturating_sub(1));
    for text in screen.iter().take(room) {
        write!(out, "{}{END_OF_LINE}\r\n", fit(text, columns.into()).trim_end())?;
    }
    write!(out, "{BELOW}")?;
    out.flush()
}

/// The lines of a screen of so many columns and rows.
async fn look(api: &Api, arguments: &Top, (_, rows): (u16, u16)) -> Result<Vec<String>, Fault> {
    let (state, verdicts) = (api.get("state").await?, api.get("verdicts").await?);
    let record = api.get("record").await?;
    let below = usize::from(rows).saturating_sub(10) / 2;
    let below = below.clamp(3, 40);
    let query = parameters([
        ("by", Some(arguments.by.label().to_owned())),
        ("direction", Some(if arguments.down { "down" } else { "up" }.to_owned())),
        ("limit", Some(below.to_string())),
    ]);
    let top = api.get(&format!("top?{query}")).await?;
    let refusals = api.get(&format!("refusals?limit={below}")).await?;
    Ok(screen(&state, &verdicts, &record, &top, &refusals, arguments))
}

fn screen(
    state: &Value,
    verdicts: &Value,
    record: &Value,
    top: &Value,
    refusals: &Value,
    arguments: &Top,
) -> Vec<String> {
    let time = text(&state["time"]);
    let ready = match state["ready"].as_bool() {
        Some(true) => "ready".to_owned(),
        _ => format!("NOT READY: {}", text(&state["missing"])),
    };
    let rate = &verdicts["rates"]["ten_seconds"];
    let per_second = |what: &str| format!("{:.1}/s", rate[what].as_f64().unwrap_or(0.0));
    let kept = match (record["kept"].as_bool(), record["is_written"].as_bool()) {
        (Some(true), Some(true)) => format!(
            "written, {} records, {} gaps, head {}",
            text(&record["records"]),
            text(&record["gaps"]),
            first([&record["head_time"]])
        ),
        (Some(true), _) => format!("NOT WRITTEN: {}", text(&record["fault"])),
        _ => "on the log alone".to_owned(),
    };
    let mut lines = vec![
        format!(
            "schengate {}  {} UTC  up {}  mode {}  policy {}",
            text(&state["version"]),
            time.get(11..19).unwrap_or(&time),
            span(state["uptime_s"].as_u64().unwrap_or(0)),
            first([&state["mode"]]),
            first([&state["policy"]["version"]]),
        ),
        ready,
        format!(
            "live {}   allow {}   log {}   block {}   up {}/s   down {}/s",
            text(&verdicts["live"]),
            per_second("allow"),
            per_second("log"),
            per_second("block"),
            bytes(&rate["bytes_up"]),
            bytes(&rate["bytes_down"]),
        ),
        format!("record {kept}"),
        String::new(),
    ];
    let head = arguments.by.label().to_uppercase();
    let direction = if arguments.down { "DOWN" } else { "UP" };
    lines.push(format!(
        "{:>10} {:>10} {:>7}  {head} (live, most {direction})",
        "UP", "DOWN", "CONNS"
    ));
    for row in top["rows"].as_array().into_iter().flatten() {
        lines.push(format!(
            "{:>10} {:>10} {:>7}  {}",
            bytes(&row["bytes_up"]),
            bytes(&row["bytes_down"]),
            text(&row["connections"]),
            first([&row["key"]])
        ));
    }
    lines.push(String::new());
    lines.push(format!(
        "{:8} {:10} {:8} {:22} REFUSED, OR WOULD BE",
        "TIME", "REASON", "PLACE", "CLIENT"
    ));
    for row in refusals["refusals"].as_array().into_iter().flatten() {
        let time = text(&row["time"]);
        lines.push(format!(
            "{:8} {} {} {} {} [{}]",
            time.get(11..19).unwrap_or(&time),
            fit(&text(&row["reason"]), 10),
            fit(&place(row), 8),
            fit(&text(&row["client"]), 22),
            first([&row["host"], &row["destination"]]),
            text(&row["id"])
        ));
    }
    lines
}
