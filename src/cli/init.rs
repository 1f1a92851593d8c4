//! `schengate init`: a policy to begin with, from a preset.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use super::common::{Exit, complain};

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub(super) struct Init {
    /// The preset; without it, all are listed
    preset: Option<Preset>,
    /// Refuse from the start, instead of only looking
    #[arg(long)]
    enforce: bool,
    /// Write the policy there instead of to stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write over a file that is there
    #[arg(long, requires = "output")]
    force: bool,
}

/// What there is to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Preset {
    /// Bytes land in the European Economic Area alone
    Eea,
    /// The EEA, and countries with a full adequacy decision
    GdprFreeFlow,
    /// Health data of France: hosted in the EEA, law from outside recorded
    Hds,
    /// Held in the EU, by whom no law from outside reaches
    Secnumcloud,
    /// Financial entities: every place recorded, none refused but what nobody knows
    Dora,
    /// No data of US persons to countries of concern
    UsDsp,
    /// Package registries and model endpoints of the EU, and nothing else
    Agent,
}

impl Preset {
    const fn text(self) -> &'static str {
        match self {
            Self::Eea => include_str!("../../config/presets/eea.toml"),
            Self::GdprFreeFlow => include_str!("../../config/presets/gdpr-free-flow.toml"),
            Self::Hds => include_str!("../../config/presets/hds.toml"),
            Self::Secnumcloud => include_str!("../../config/presets/secnumcloud.toml"),
            Self::Dora => include_str!("../../config/presets/dora.toml"),
            Self::UsDsp => include_str!("../../config/presets/us-dsp.toml"),
            Self::Agent => include_str!("../../config/presets/agent.toml"),
        }
    }

    /// Its policy, in the mode that is asked for.
    fn policy(self, enforces: bool) -> String {
        let text = self.text();
        if !enforces {
            return text.to_owned();
        }
        let is_mode = |line: &str| line.starts_with("mode ");
        let lines = text.lines().map(|line| match is_mode(line) {
            true => "mode = \"enforce\"\n".to_owned(),
            false => format!("{line}\n"),
        });
        lines.collect()
    }
}

/// Exit status: 0 written, 1 there is a file already, 2 it cannot be written.
pub(super) fn init(arguments: &Init, out: &mut impl Write) -> io::Result<Exit> {
    let Some(preset) = arguments.preset else { return list(out) };
    let text = preset.policy(arguments.enforce);
    let Some(path) = &arguments.output else {
        out.write_all(text.as_bytes())?;
        return Ok(Exit::Yes);
    };
    let mut options = OpenOptions::new();
    options.write(true);
    if arguments.force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let shown = path.display();
    match options.open(path).and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => {
            writeln!(out, "{shown}: written. Next: schengate check --config {shown}")?;
            Ok(Exit::Yes)
        }
        Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => {
            complain(format_args!("{shown} is there already; --force writes over it"));
            Ok(Exit::No)
        }
        Err(fault) => Ok(complain(format_args!("{shown}: {fault}"))),
    }
}

fn list(out: &mut impl Write) -> io::Result<Exit> {
    use clap::ValueEnum;
    for preset in Preset::value_variants() {
        let Some(value) = preset.to_possible_value() else { continue };
        let help = value.get_help().map(ToString::to_string).unwrap_or_default();
        writeln!(out, "{:16} {help}", value.get_name())?;
    }
    writeln!(out, "\nschengate init PRESET --output policy.toml")?;
    Ok(Exit::Yes)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::control::config::{self, LintKind};
    use crate::policy::Mode;

    #[test]
    fn each_preset_is_a_policy_without_fault_or_lint_in_both_modes() {
        for preset in Preset::value_variants() {
            for (enforces, mode) in [(false, Mode::Observe), (true, Mode::Enforce)] {
                let text = preset.policy(enforces);
                let loaded = config::parse(&text, None);
                let loaded = loaded.unwrap_or_else(|faults| panic!("{preset:?}: {faults}"));
                assert_eq!(loaded.config.policy.mode, mode, "{preset:?}");
                // That it only looks is what is asked for then, and said.
                let lints = loaded.lints.iter();
                let lints: Vec<_> =
                    lints.filter(|lint| lint.kind != LintKind::ObserveWithoutEnd).collect();
                assert!(lints.is_empty(), "{preset:?}: {lints:?}");
                assert!(loaded.unknown_regions.is_empty());
            }
        }
    }

    #[test]
    fn each_preset_says_its_source_its_date_and_what_it_does_not_do() {
        for preset in Preset::value_variants() {
            let text = preset.text();
            for part in ["# Source: ", "As of 20", "# It does not ", "mode "] {
                assert!(text.contains(part), "{preset:?} does not say {part:?}");
            }
        }
    }
}
