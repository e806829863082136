//! What keeps the process from starting: in words, with what to do, and as an exit code.

use std::io::ErrorKind;
use std::net::SocketAddr;

use crate::config::Problem;

/// Why the process did not start, or how it ended badly.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{}", list(.0))]
    Config(Vec<Problem>),
    #[error("{0}")]
    Usage(String),
    #[error("cannot listen on {address}: {error}. {}", listen_advice(.error, .flag))]
    Listen { address: SocketAddr, flag: &'static str, error: std::io::Error },
    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },
}

impl StartError {
    /// Exit code after BSD `sysexits.h`: 64 for usage and configuration, 69 for what is not available.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Config(_) | StartError::Usage(_) => 64,
            StartError::Listen { .. } | StartError::Io { .. } => 69,
        }
    }
}

fn listen_advice(error: &std::io::Error, flag: &str) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            format!(
                "Ports below 1024 need the capability CAP_NET_BIND_SERVICE; give it, or choose another with --{flag}"
            )
        }
        ErrorKind::AddrNotAvailable => "The address is none of this machine's; choose another with --bind".to_owned(),
        _ => {
            format!("Another process may have the port; stop it, or choose another with --{flag} (0 takes a free one)")
        }
    }
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    format!("the configuration cannot be used:\n  {}", lines.join("\n  "))
}
