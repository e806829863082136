//! Process log: one line per event on standard error, as text or JSON, filtered like `weirgate=debug,info`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Libraries that tell at `info` what each query or request does, or dump what they do not understand. A filter that names them wins.
const QUIET: &str = "lance=warn,lopdf=error,rmcp=error";

/// The filter of `config.toml`.
///
/// # Errors
/// It cannot be parsed.
pub fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(format!("{QUIET},{filter}"))
        .map_err(|error| format!("telemetry.log_level \"{filter}\" is not a log filter ({error}); try \"info\""))
}

/// Installs the subscriber once per process. `filter` is the level from `config.toml`; the variable `WEIRGATE_LOG` wins.
///
/// # Errors
/// A filter that cannot be parsed, with the offending text; nothing is installed then.
pub fn init(filter: &str, json: bool) -> Result<(), String> {
    let filter = std::env::var("WEIRGATE_LOG").unwrap_or_else(|_| filter.to_owned());
    let registry = tracing_subscriber::registry().with(parse(&filter)?);
    let writer = std::io::stderr;
    // A second call (tests starting several gateways in one process) keeps the first subscriber.
    let _ = if json {
        registry.with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(writer)).try_init()
    } else {
        let ansi = std::io::stderr().is_terminal();
        registry.with(tracing_subscriber::fmt::layer().with_ansi(ansi).with_writer(writer)).try_init()
    };
    Ok(())
}
