//! `proxy-next-upstream`, `-tries` and `-timeout`: when a failed attempt is repeated (Higress `annotations/retry.go`).

use std::time::Duration;

use super::Annotations;
use crate::config::model::{RetryOn, RetryPolicy};

/// Once any of the three annotations is there, these replace the defaults of a route without them.
const DEFAULT_TRIES: u32 = 3;

pub(super) fn read(annotations: &Annotations<'_>) -> RetryPolicy {
    let conditions = annotations.either("proxy-next-upstream");
    let tries = annotations.either("proxy-next-upstream-tries");
    let timeout = annotations.either("proxy-next-upstream-timeout");
    if conditions.is_none() && tries.is_none() && timeout.is_none() {
        return RetryPolicy::default();
    }
    let mut policy = RetryPolicy {
        attempts: annotations.parse(tries, "a whole number", |text| text.parse().ok()).unwrap_or(DEFAULT_TRIES),
        per_try_timeout: annotations
            .parse(timeout, "a number of seconds", |text| text.parse().ok())
            .filter(|seconds: &u32| *seconds > 0)
            .map(|seconds| Duration::from_secs(seconds.into())),
        on: vec![RetryOn::ServerError],
        non_idempotent: false,
    };
    if let Some((key, text)) = conditions {
        read_conditions(annotations, &key, text, &mut policy);
    }
    policy
}

fn read_conditions(annotations: &Annotations<'_>, key: &str, text: &str, policy: &mut RetryPolicy) {
    let words: Vec<&str> =
        text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return;
    }
    if words.contains(&"off") {
        policy.attempts = 0;
        return;
    }
    policy.on.clear();
    for word in words {
        let condition = match word {
            "error" | "timeout" | "invalid_header" => RetryOn::ServerError,
            "non_idempotent" => {
                policy.non_idempotent = true;
                continue;
            }
            _ => match word.strip_prefix("http_").and_then(|status| status.parse().ok()) {
                Some(status @ 100..=599) => RetryOn::Status(status),
                _ => {
                    annotations.warn(key, format!("`{word}` is not a retry condition and has no effect"));
                    continue;
                }
            },
        };
        if !policy.on.contains(&condition) {
            policy.on.push(condition);
        }
    }
}
