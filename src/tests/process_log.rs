//! A gateway whose log is read line by line, for tests that wait for what it says.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::harness::*;

/// Longer than [`PATIENCE`]: what the process does by itself may be twenty seconds away, and may then take its time.
const LONG_PATIENCE: Duration = Duration::from_secs(120);

pub struct Logged {
    // Ended first, and with it the thread that reads its log.
    pub gateway: Gateway,
    lines: UnboundedReceiver<String>,
}

impl Logged {
    /// `settings` is a config.toml but for its `[telemetry]`.
    pub fn start(folder: Folder, settings: &str) -> Logged {
        Logged::start_by(Command::new(binary()), folder, settings)
    }

    /// The same by a command that runs the gateway with the arguments that follow.
    pub fn start_by(command: Command, folder: Folder, settings: &str) -> Logged {
        let toml = format!("[telemetry]\naccess_log = \"off\"\nlog_level = \"info\"\n{settings}");
        let mut child = serving(command, &folder, &toml).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = unbounded_channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                // A test that no longer listens still needs the pipe to be emptied.
                let _ = sender.send(line);
            }
        });
        Logged { gateway: Gateway::of(child, folder), lines }
    }

    /// Waits for a line that has all of these in it.
    pub async fn says(&mut self, parts: &[&str]) -> String {
        let found = async {
            loop {
                let line = self.lines.recv().await.expect("the gateway runs");
                if parts.iter().all(|part| line.contains(*part)) {
                    break line;
                }
            }
        };
        let found = tokio::time::timeout(LONG_PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("waited in vain for {parts:?} in the log"))
    }
}
