//! Parse, dispatch, exit status; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    schengate::cli::main()
}
