//! Questions to the register.

use rusqlite::types::Value;

use super::{Register, RegisterFault, Sums};

/// What a row of an answer is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Column {
    /// The hour, as it begins (UTC)
    Hour,
    /// The day (UTC)
    Day,
    /// The client's group
    Group,
    /// The name; `*` is what was summed up of an hour's smaller ones
    Name,
    /// Countries where the bytes could land
    Location,
    /// The operator
    Operator,
    /// Countries whose law reaches the holder
    Law,
    /// The ground of the rule
    Basis,
    /// The rule that decided
    Rule,
    /// What became of it
    Verdict,
    /// Why
    Reason,
    /// The way in
    Listener,
    /// TCP or UDP
    Transport,
}

impl Column {
    /// Its name in answers.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Group => "group",
            Self::Name => "name",
            Self::Location => "location",
            Self::Operator => "operator",
            Self::Law => "law",
            Self::Basis => "basis",
            Self::Rule => "rule",
            Self::Verdict => "verdict",
            Self::Reason => "reason",
            Self::Listener => "listener",
            Self::Transport => "transport",
        }
    }

    const fn sql(self) -> &'static str {
        match self {
            Self::Hour => "strftime('%Y-%m-%dT%H:00Z', hour, 'unixepoch')",
            Self::Day => "strftime('%Y-%m-%d', hour, 'unixepoch')",
            Self::Group => "group_name",
            Self::Name
            | Self::Location
            | Self::Operator
            | Self::Law
            | Self::Basis
            | Self::Rule
            | Self::Verdict
            | Self::Reason
            | Self::Listener
            | Self::Transport => self.label(),
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Hours that begin at this second or later.
    pub from: Option<i64>,
    /// Hours that begin before this second.
    pub to: Option<i64>,
    /// Clients of this group alone.
    pub group: Option<String>,
    /// What rows are of; one row of everything where there is none.
    pub by: Vec<Column>,
}

/// One row of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The values of the columns that were asked for; empty where there is none.
    pub values: Vec<String>,
    /// The sums.
    pub sums: Sums,
    /// A row with a name may lack what was summed up with the rest.
    pub partial: bool,
}

impl Register {
    /// Answers a question; the largest rows come first, those of hours and days in their order.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn query(&self, query: &Query) -> Result<Vec<Row>, RegisterFault> {
        let columns: Vec<&str> = query.by.iter().map(|column| column.sql()).collect();
        let mut text = format!(
            "SELECT sum(opened), sum(connections), sum(bytes_up), sum(bytes_down), \
             min(first_seen), max(last_seen), max(partial), sum({})",
            self.contradicted()
        );
        for column in &columns {
            text = text + ", " + column;
        }
        text.push_str(" FROM hourly JOIN label ON label.id = hourly.label WHERE 1");
        let mut values = Vec::new();
        for (condition, value) in [
            (" AND hour >= ?", query.from.map(Value::from)),
            (" AND hour < ?", query.to.map(Value::from)),
            (" AND group_name = ?", query.group.clone().map(Value::from)),
        ] {
            if let Some(value) = value {
                text.push_str(condition);
                values.push(value);
            }
        }
        if !columns.is_empty() {
            // By their places: an alias would hide a column of the same name.
            let places = |from: usize| (from..from + columns.len()).map(|at| at.to_string());
            text = text + " GROUP BY " + &places(9).collect::<Vec<_>>().join(", ");
        }
        let mut order: Vec<String> = Vec::new();
        for (at, column) in query.by.iter().enumerate() {
            if matches!(column, Column::Hour | Column::Day) {
                order.push((at + 9).to_string());
            }
        }
        order.extend(["sum(bytes_up + bytes_down) DESC".to_owned(), "2 DESC".to_owned()]);
        order.extend((9..9 + columns.len()).map(|at| at.to_string()));
        text = text + " ORDER BY " + &order.join(", ");
        let run = || -> Result<Vec<Row>, rusqlite::Error> {
            let mut select = self.database().prepare(&text)?;
            let mut rows = select.query(rusqlite::params_from_iter(&values))?;
            let mut answer = Vec::new();
            while let Some(row) = rows.next()? {
                let number = |at| row.get::<_, i64>(at).map(i64::unsigned_abs);
                // The sum of no row is none.
                if row.get::<_, Option<i64>>(0)?.is_none() {
                    continue;
                }
                let values = (8..8 + columns.len()).map(|at| row.get::<_, String>(at));
                answer.push(Row {
                    values: values.collect::<Result<_, _>>()?,
                    sums: Sums {
                        opened: number(0)?,
                        connections: number(1)?,
                        bytes_up: number(2)?,
                        bytes_down: number(3)?,
                        first_seen: row.get(4)?,
                        last_seen: row.get(5)?,
                        contradicted: number(7)?,
                    },
                    partial: row.get::<_, i64>(6)? != 0,
                });
            }
            Ok(answer)
        };
        run().map_err(|source| self.fault(source))
    }
}
