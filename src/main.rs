//! The `weirgate` binary: parse, run, exit code.

use std::process::ExitCode;

/// A request makes a few hundred short-lived allocations on whichever thread it runs. jemalloc keeps freed blocks of a thread in an
/// array beside it; allocators that thread their free lists through the blocks miss the cache at each of them.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bodies pass through buffers of 64 KiB, and a thread keeps freed blocks only up to 32 KiB unless told otherwise.
#[expect(unsafe_code, reason = "the name under which jemalloc looks for its options; nothing else is called so")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_OPTIONS: &[u8] = b"tcache_max:131072\0";

fn main() -> ExitCode {
    weirgate::cli::main()
}
