//! `canary`, `canary-by-header` with `-value` or `-pattern`, `canary-by-cookie`, `canary-weight`, `canary-weight-total`:
//! an Ingress that takes part of the requests of another one with the same host, path and conditions (Higress
//! `annotations/canary.go`). The first of header, cookie and weight that is there decides.

use super::Annotations;
use super::matching::reason;
use crate::config::model::{CanaryTakes, HeaderMatch, Pattern, StringMatch};

/// The value that header and cookie need to have if none is configured; always accepted beside a configured one.
const ALWAYS: &str = "always";
const DEFAULT_TOTAL: u32 = 100;

/// `None` if the Ingress is no canary.
pub(super) fn read(annotations: &Annotations<'_>) -> Option<CanaryTakes> {
    let is_canary = annotations.flag(annotations.either("canary"));
    let text = |key: &str| annotations.either(key).filter(|(_, text)| !text.trim().is_empty());
    let (header, value, pattern) =
        (text("canary-by-header"), text("canary-by-header-value"), text("canary-by-header-pattern"));
    let cookie = text("canary-by-cookie");
    let number = |key: &str| annotations.parse(text(key), "a whole number", |text| text.parse::<u32>().ok());
    let (weight, total) = (number("canary-weight"), number("canary-weight-total"));
    if !is_canary {
        return None;
    }
    if let Some((_, header)) = header {
        let name = header.trim().to_ascii_lowercase();
        let expression = match (value, pattern) {
            (Some((key, value)), _) => Some((key, format!("{ALWAYS}|{value}"))),
            // Found anywhere in the value, as by nginx, unless it has anchors; Higress' own test has a suffix behind it.
            (None, Some((key, pattern))) => Some((key, format!(".*(?:{pattern}).*"))),
            (None, None) => None,
        };
        let value = match expression {
            None => StringMatch::Exact(ALWAYS.to_owned()),
            Some((key, expression)) => match Pattern::full(&expression) {
                Ok(pattern) => StringMatch::Regex(pattern),
                Err(error) => {
                    annotations.error(&key, format!("is not a regular expression: {}", reason(&error)));
                    return Some(CanaryTakes::Share { weight: 0, total: DEFAULT_TOTAL });
                }
            },
        };
        return Some(CanaryTakes::Header(HeaderMatch { name, value }));
    }
    if let Some((_, cookie)) = cookie {
        return Some(CanaryTakes::Cookie(cookie.trim().to_owned()));
    }
    let total = total.filter(|total| *total > 0).unwrap_or(DEFAULT_TOTAL);
    Some(CanaryTakes::Share { weight: weight.unwrap_or(0).min(total), total })
}
