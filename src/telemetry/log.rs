//! Process log: one line per event on standard error, as text or JSON, filtered like `weirgate=debug,info`.

use std::io::IsTerminal;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Libraries that tell at `info` what each query or request does, dump what they do not understand, or warn with the whole path, and with the key
/// that may stand in its query. A filter that names them wins.
const QUIET: &str = "lance=warn,lopdf=error,pingora_proxy=error,rmcp=error";

/// The filter of `config.toml`.
///
/// # Errors
/// It cannot be parsed.
pub fn parse(filter: &str) -> Result<EnvFilter, String> {
    // A word alone may be the name of a module, and then everything else is silent; whoever misspells a level means no such thing.
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let mut words =
        filter.split(',').map(str::trim).filter(|word| !word.is_empty() && !word.contains(['=', '[', '{', '}']));
    if let Some(word) = words.find(|word| !is_level(word)) {
        return Err(format!(
            "telemetry.log_level: \"{word}\" is no level; name off, error, warn, info, debug or trace, or a module with its level, such as weirgate::proxy=debug"
        ));
    }
    EnvFilter::try_new(format!("{QUIET},{filter}"))
        .map_err(|error| format!("telemetry.log_level \"{filter}\" is not a log filter ({error}); try \"info\""))
}

/// Milliseconds as a number of the log.
pub fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_and_misspelled_ones_are_named() {
        for filter in ["info", "WARN", "off", "weirgate=debug,info", "weirgate::proxy=trace", "info,lance=error"] {
            parse(filter).unwrap();
        }
        for (filter, word) in
            [("wanr", "wanr"), ("weirgate=debug,loud", "loud"), ("weirgate::proxy", "weirgate::proxy")]
        {
            let error = parse(filter).unwrap_err();
            assert!(error.contains(&format!("\"{word}\" is no level")), "{error}");
        }
        assert!(parse("foo=bar=baz").is_err());
    }
}
