//! How the gateway is told to train. All of it together takes at most `--train-timeout-secs`, and says so where that is not enough.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::http::{Client, excerpt};
use crate::shell;

/// Longest wait for one answer of the ready URL: a gateway that starts anew may leave a connection without any.
const ONE_LOOK: Duration = Duration::from_secs(10);
/// Between two looks at the ready URL.
const POLL: Duration = Duration::from_millis(200);

/// Nothing set means that the gateway trains by itself.
pub struct Trainer {
    pub client: Client,
    pub url: Option<String>,
    pub token: Option<String>,
    pub command: Option<String>,
    pub ready_url: Option<String>,
    /// For all steps together.
    pub timeout: Duration,
}

impl Trainer {
    pub fn can_trigger(&self) -> bool {
        self.url.is_some() || self.command.is_some()
    }

    /// Runs the command, posts to the URL, then waits until the ready URL answers 200. Returns what they printed.
    pub async fn train(&self) -> Result<String> {
        let deadline = Instant::now() + self.timeout;
        match self.steps(deadline).await {
            Err(error) if Instant::now() >= deadline => {
                let seconds = self.timeout.as_secs_f64();
                Err(error.context(format!("not done within the {seconds} s of --train-timeout-secs")))
            }
            done => done,
        }
    }

    async fn steps(&self, deadline: Instant) -> Result<String> {
        let mut said = String::new();
        if let Some(command) = &self.command {
            said += &shell::run("--train-command", command, Some(until(deadline))).await?;
        }
        if let Some(url) = &self.url {
            said += &self.post(url, deadline).await?;
        }
        if let Some(url) = &self.ready_url {
            self.wait(url, deadline).await?;
        }
        Ok(said)
    }

    async fn post(&self, url: &str, deadline: Instant) -> Result<String> {
        let request = Client::request("POST", url, &self.authorization()?, Bytes::from_static(b"{}"))?;
        let answer = self.client.with_timeout(until(deadline)).send(request).await.context("--train-url")?;
        if !(200..300).contains(&answer.status) {
            bail!("POST {url} (--train-url): status {}, body {}", answer.status, excerpt(&answer.body));
        }
        Ok(excerpt(&answer.body))
    }

    /// A gateway that starts anew refuses connections for a while; that is no reason to give up.
    async fn wait(&self, url: &str, deadline: Instant) -> Result<()> {
        loop {
            let request = Client::request("GET", url, &self.authorization()?, Bytes::new())?;
            let last = match self.client.with_timeout(until(deadline).min(ONE_LOOK)).send(request).await {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => format!("status {}", answer.status),
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() >= deadline {
                bail!("GET {url} (--ready-url): no 200, and at last: {last}");
            }
            tokio::time::sleep(POLL.min(until(deadline))).await;
        }
    }

    fn authorization(&self) -> Result<Vec<(HeaderName, HeaderValue)>> {
        let Some(token) = &self.token else { return Ok(Vec::new()) };
        let value = HeaderValue::try_from(format!("Bearer {token}")).context("--train-token is no header value")?;
        Ok(vec![(AUTHORIZATION, value)])
    }
}

fn until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::{get, post};

    use super::*;
    use crate::test_support::serve_router;

    fn trainer() -> Trainer {
        let timeout = Duration::from_secs(10);
        Trainer { client: Client::new(), url: None, token: None, command: None, ready_url: None, timeout }
    }

    #[tokio::test]
    async fn a_command_says_what_went_wrong() {
        let trainer = |command: &str| Trainer { command: Some(command.to_string()), ..trainer() };
        assert_eq!(trainer("echo version 7").train().await.unwrap(), "version 7");
        let error = trainer("echo too few rows >&2; exit 3").train().await.unwrap_err().to_string();
        assert!(error.contains("too few rows") && error.contains("exit status: 3"), "{error}");
    }

    #[tokio::test]
    async fn command_and_url_obey_the_timeout_and_say_so() {
        let server = serve_router(Router::new().fallback(async || std::future::pending::<()>().await)).await;
        let slow = || Trainer { timeout: Duration::from_millis(50), ..trainer() };
        for trainer in [
            Trainer { command: Some("exec sleep 60".into()), ..slow() },
            Trainer { url: Some(server.url("/train")), ..slow() },
            Trainer { ready_url: Some(server.url("/ready")), ..slow() },
        ] {
            let error = format!("{:#}", trainer.train().await.unwrap_err());
            assert!(error.starts_with("not done within the 0.05 s of --train-timeout-secs: "), "{error}");
        }
    }

    #[tokio::test]
    async fn a_training_may_take_longer_than_an_answer_of_the_gateway() {
        let answer = async || {
            tokio::time::sleep(Duration::from_millis(60)).await;
            "promoted"
        };
        let server = serve_router(Router::new().route("/train", post(answer))).await;
        let client = Client::new().with_timeout(Duration::from_millis(10));
        let trainer = Trainer { client, url: Some(server.url("/train")), ..trainer() };
        assert_eq!(trainer.train().await.unwrap(), "promoted");
    }

    #[tokio::test]
    async fn a_gateway_that_starts_anew_is_waited_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ready_url = Some(format!("http://{}/ready", listener.local_addr().unwrap()));
        let trainer = Trainer { ready_url, ..trainer() };
        let serve = async {
            // The first look gets no answer.
            drop(listener.accept().await.unwrap());
            axum::serve(listener, Router::new().route("/ready", get(async || "yes"))).await
        };
        tokio::select! {
            trained = trainer.train() => assert_eq!(trained.unwrap(), ""),
            ended = serve => panic!("{ended:?}"),
        }
    }
}
