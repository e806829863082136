//! The `weirgate` binary: parse, run, exit code.

use std::process::ExitCode;

/// A request makes a few hundred short-lived allocations on whichever thread it runs; the system allocator spends a sixth of
/// the gateway's time on them and gives memory back to the kernel between requests.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    weirgate::cli::main()
}
