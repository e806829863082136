//! The `weirgate` binary: parse, run, exit code.

use std::process::ExitCode;

/// A request makes a few hundred short-lived allocations on whichever thread it runs. jemalloc keeps freed blocks of a thread in an
/// array beside it; allocators that thread their free lists through the blocks miss the cache at each of them.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    weirgate::cli::main()
}
