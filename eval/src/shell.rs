//! Commands of the user's own, where a gateway has no HTTP for something.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::http::excerpt;

/// Between two looks whether a command has ended.
const POLL: Duration = Duration::from_millis(10);

/// Runs `command`, which `flag` gave, through the shell; returns the beginning of what it says.
///
/// # Errors
/// It cannot be started, fails, or runs longer than `limit`: then its shell is killed, and what that started may still run.
pub async fn run(flag: &str, command: &str, limit: Option<Duration>) -> Result<String> {
    // Files, not pipes: what the command leaves in the background may keep a pipe open, and a full one would stop it.
    let (mut said, mut complained) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(complained.try_clone()?)
        .spawn()
        .with_context(|| format!("{flag} {command:?} cannot be started"))?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if let Some(limit) = limit.filter(|limit| began.elapsed() >= *limit) {
            child.kill()?;
            child.wait()?;
            bail!(
                "{flag} {command:?}: still running after {} s; its shell was killed, what it started may still run",
                limit.as_secs_f64()
            );
        }
        tokio::time::sleep(POLL).await;
    };
    if !status.success() {
        bail!("{flag} {command:?}: {status}; it said: {}", beginning(&mut complained)?);
    }
    beginning(&mut said)
}

fn beginning(file: &mut File) -> Result<String> {
    let mut text = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut text)?;
    Ok(excerpt(&text).trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_command_says_or_how_it_fails() {
        assert_eq!(run("--do", "echo done", None).await.unwrap(), "done");
        let error = run("--do", "echo no >&2; false", None).await.unwrap_err().to_string();
        assert!(error.contains("--do") && error.ends_with("it said: no"), "{error}");
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_ended() {
        let error = run("--do", "exec sleep 60", Some(Duration::from_millis(30))).await.unwrap_err().to_string();
        assert!(error.contains("--do \"exec sleep 60\": still running after 0.03 s"), "{error}");
    }
}
