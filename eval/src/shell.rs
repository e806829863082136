//! Commands of the user's own, where a gateway has no HTTP for something.

use anyhow::{Context, Result, bail};

use crate::http::excerpt;

/// Runs `command`, which `flag` gave, through the shell; returns the beginning of what it says.
///
/// # Errors
/// It cannot be started or fails.
pub async fn run(flag: &str, command: &str) -> Result<String> {
    let in_shell = command.to_string();
    let output = tokio::task::spawn_blocking(move || std::process::Command::new("sh").arg("-c").arg(in_shell).output())
        .await?
        .with_context(|| format!("{flag} {command:?} cannot be started"))?;
    let text = |bytes: &[u8]| excerpt(bytes).trim().to_string();
    if !output.status.success() {
        bail!("{flag} {command:?}: {}; it said: {}", output.status, text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_command_says_or_how_it_fails() {
        assert_eq!(run("--do", "echo done").await.unwrap(), "done");
        let error = run("--do", "echo no >&2; false").await.unwrap_err().to_string();
        assert!(error.contains("--do") && error.ends_with("it said: no"), "{error}");
    }
}
