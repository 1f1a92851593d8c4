//! `schengate connections`: live connections, and the end of one.

use std::io::{self, Write};

use hyper::Method;
use serde_json::Value;

use super::api::{Api, Reach, block_on, parameters, part};
use super::shown::{bytes, first, fit, line, place, span, text, unanswered};
use crate::cli::common::Exit;

/// Arguments of `connections`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Connections {
    #[command(flatten)]
    reach: Reach,
    /// End the connection of this event id
    #[arg(long, value_name = "ID")]
    kill: Option<String>,
    /// The first in this order
    #[arg(long, value_enum, default_value = "newest")]
    order: Order,
    /// Of this client (an address; an IPv6 address stands for its /64)
    #[arg(long, value_name = "IP")]
    client: Option<std::net::IpAddr>,
    /// In whose name this text stands
    #[arg(long, value_name = "TEXT")]
    host: Option<String>,
    /// That may land in this country
    #[arg(long, value_name = "CODE")]
    country: Option<String>,
    /// Let go for this reason
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// How many, 1 to 500
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: u16,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Order {
    /// The one that came in last
    Newest,
    /// By bytes to the destination
    Up,
    /// By bytes to the client
    Down,
}

impl Order {
    const fn label(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

pub(super) fn run(arguments: &Connections, out: &mut impl Write) -> io::Result<Exit> {
    let api = match arguments.reach.api() {
        Ok(api) => api,
        Err(fault) => return Ok(unanswered(&fault)),
    };
    if let Some(id) = &arguments.kill {
        return kill(&api, id, out);
    }
    let query = parameters([
        ("order", Some(arguments.order.label().to_owned())),
        ("limit", Some(arguments.limit.to_string())),
        ("client", arguments.client.map(|client| client.to_string())),
        ("host", arguments.host.clone()),
        ("country", arguments.country.clone()),
        ("reason", arguments.reason.clone()),
    ]);
    let path = format!("connections?{query}");
    match block_on(api.get(&path)) {
        Ok(answer) if arguments.json => {
            for row in answer["connections"].as_array().into_iter().flatten() {
                writeln!(out, "{}", crate::account::notice::printable(&row.to_string()))?;
            }
            Ok(Exit::Yes)
        }
        Ok(answer) => table(&answer, out).map(|()| Exit::Yes),
        Err(fault) => Ok(unanswered(&fault)),
    }
}

fn kill(api: &Api, id: &str, out: &mut impl Write) -> io::Result<Exit> {
    match block_on(api.change(Method::DELETE, &format!("connections/{}", part(id)))) {
        Ok(_) => {
            line(out, &format!("ended: {}", text(&Value::from(id))))?;
            Ok(Exit::Yes)
        }
        Err(fault) if fault.is_absent() => {
            unanswered(&fault);
            Ok(Exit::No)
        }
        Err(fault) => Ok(unanswered(&fault)),
    }
}

fn table(answer: &Value, out: &mut impl Write) -> io::Result<()> {
    let rows = answer["connections"].as_array().map(Vec::as_slice).unwrap_or_default();
    line(
        out,
        &format!(
            "{} shown, {} match, {} live",
            rows.len(),
            text(&answer["matching"]),
            text(&answer["live"])
        ),
    )?;
    if rows.is_empty() {
        return Ok(());
    }
    let columns = [24, 22, 40, 9, 10, 9, 9, 7];
    let heads = ["ID", "CLIENT", "DESTINATION", "PLACE", "REASON", "UP", "DOWN", "AGE"];
    let row = |cells: [String; 8]| -> String {
        let fitted = cells.iter().zip(columns).map(|(cell, width)| fit(cell, width));
        fitted.collect::<Vec<_>>().join(" ")
    };
    line(out, &row(heads.map(str::to_owned)))?;
    for one in rows {
        let cells = [
            text(&one["id"]),
            text(&one["client"]),
            first([&one["host"], &one["destination"]]),
            place(one),
            text(&one["reason"]),
            bytes(&one["bytes_up"]),
            bytes(&one["bytes_down"]),
            span(one["age_s"].as_u64().unwrap_or(0)),
        ];
        line(out, &row(cells))?;
    }
    Ok(())
}
