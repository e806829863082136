//! The `weirgate` binary: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    weirgate::cli::main()
}
