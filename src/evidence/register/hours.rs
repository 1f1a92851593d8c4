//! The register read row by row, for answers that are of everything in it.

use rusqlite::params;

use super::{Label, Register, RegisterFault, Sums};

/// Sums of one hour, label and name, as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hourly<'r> {
    /// Second since 1970 in which the hour begins.
    pub hour: i64,
    /// Number of the label, as [`Register::labels`] has it.
    pub label: i64,
    /// The name; empty where there is none, `*` the rest.
    pub name: &'r str,
    /// The sums.
    pub sums: Sums,
    /// A part of the name may stand under the rest.
    pub partial: bool,
}

impl Register {
    /// Every label with its number.
    pub fn labels(&self) -> impl Iterator<Item = (i64, &Label)> {
        self.labels.iter().map(|(label, number)| (*number, label))
    }

    /// Hands over the rows of hours that begin at `from` or later and before `to` (seconds since 1970).
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn each_row(
        &self,
        (from, to): (i64, i64),
        mut see: impl FnMut(Hourly<'_>),
    ) -> Result<(), RegisterFault> {
        let mut run = || -> Result<(), rusqlite::Error> {
            let mut select = self.database().prepare(&format!(
                "SELECT hour, label, name, opened, connections, bytes_up, bytes_down, first_seen, \
                 last_seen, partial, {} FROM hourly WHERE hour >= ? AND hour < ?",
                self.contradicted()
            ))?;
            let mut rows = select.query(params![from, to])?;
            while let Some(row) = rows.next()? {
                let number = |at| row.get::<_, i64>(at).map(i64::unsigned_abs);
                see(Hourly {
                    hour: row.get(0)?,
                    label: row.get(1)?,
                    name: row.get_ref(2)?.as_str()?,
                    sums: Sums {
                        opened: number(3)?,
                        connections: number(4)?,
                        bytes_up: number(5)?,
                        bytes_down: number(6)?,
                        first_seen: row.get(7)?,
                        last_seen: row.get(8)?,
                        contradicted: number(10)?,
                    },
                    partial: row.get::<_, i64>(9)? != 0,
                });
            }
            Ok(())
        };
        run().map_err(|source| self.fault(source))
    }

    /// Hands over label and name of the rows of hours before `from`, until `see` wants no more.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn each_before(
        &self,
        from: i64,
        mut see: impl FnMut(i64, &str) -> bool,
    ) -> Result<(), RegisterFault> {
        let mut run = || -> Result<(), rusqlite::Error> {
            let mut select =
                self.database().prepare("SELECT label, name FROM hourly WHERE hour < ?")?;
            let mut rows = select.query([from])?;
            while let Some(row) = rows.next()? {
                if !see(row.get(0)?, row.get_ref(1)?.as_str()?) {
                    break;
                }
            }
            Ok(())
        };
        run().map_err(|source| self.fault(source))
    }
}
