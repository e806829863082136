//! The loop that keeps certificates fresh.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Authority, Issued, Leaf, Shelf};
use crate::config::model::{AutomaticHttps, CertificateOrder};

/// Between two looks at what is wanted, if nothing says that it has changed.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// After a failure; doubled with each further one. Authorities shut out who fails too often.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(12 * 3600);

/// After a certificate was issued, whatever is said of it then: an authority is never asked without end.
const PAUSE_AFTER_SUCCESS: Duration = Duration::from_secs(600);

/// The lifetime that `renewBeforeDays` is about; of a shorter or longer one it is the same part (Higress `RenewalWindowRatio`).
const USUAL_LIFETIME: Duration = Duration::from_secs(90 * 86_400);

/// No certificate is renewed in the first third of its life.
const LARGEST_PART: f64 = 2.0 / 3.0;

/// Orders what is wanted and not there, and what expires soon. `changed` says that something else may be wanted.
pub async fn keep(authority: Authority, shelf: Arc<dyn Shelf>, changed: Arc<Notify>) {
    let mut failures = Failures::default();
    // What was issued and could not be put onto the shelf: authorities give only a few for the same names.
    let mut in_hand: HashMap<String, Issued> = HashMap::new();
    loop {
        let mut next = LOOK_EVERY;
        if let Some(wanted) = shelf.wanted() {
            failures.forget_all_but(&wanted);
            in_hand.retain(|domain, _| wanted.orders.iter().any(|order| order.domain == *domain));
            for order in &wanted.orders {
                let due = due_in(order, wanted.renew_before, SystemTime::now());
                if due.is_zero() && !failures.is_pausing(&order.domain) {
                    let outcome = issue(&authority, &*shelf, &wanted, order, &mut in_hand).await;
                    shelf.count(outcome.is_ok());
                    failures.note(&order.domain, outcome);
                } else if !due.is_zero() {
                    next = next.min(due);
                }
            }
        }
        let next = failures.next().map_or(next, |pause| next.min(pause));
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep(next) => {}
        }
    }
}

async fn issue(
    authority: &Authority,
    shelf: &dyn Shelf,
    wanted: &AutomaticHttps,
    order: &CertificateOrder,
    in_hand: &mut HashMap<String, Issued>,
) -> Result<(), String> {
    let domain = &order.domain;
    let issued = match in_hand.remove(domain) {
        Some(issued) => issued,
        None => {
            tracing::info!(domain, directory = authority.directory, "Ordering a certificate");
            authority.issue(domain, wanted.email.as_deref()).await?
        }
    };
    if let Err(reason) = shelf.put(order, &issued) {
        in_hand.insert(domain.clone(), issued);
        return Err(format!("it was issued and is kept until it can be stored: {reason}"));
    }
    tracing::info!(domain, secret = %order.secret, "A certificate was issued");
    Ok(())
}

/// How long until there must be another certificate for the domain; zero where there is none, or not for much longer. One that lives
/// for a day is renewed hours before.
fn due_in(order: &CertificateOrder, renew_before: Duration, now: SystemTime) -> Duration {
    let leaf = order.chain.as_deref().and_then(Leaf::of).filter(|leaf| leaf.names.contains(&order.domain));
    leaf.map_or(Duration::ZERO, |leaf| {
        let part = renew_before.as_secs_f64() / USUAL_LIFETIME.as_secs_f64();
        leaf.time_left(now).saturating_sub(leaf.lifetime.mul_f64(part.min(LARGEST_PART)))
    })
}

/// Domains that are not ordered for the moment: how long after the last order, and until when.
#[derive(Default)]
struct Failures {
    by_domain: HashMap<String, (Duration, Instant)>,
}

impl Failures {
    fn is_pausing(&self, domain: &str) -> bool {
        self.by_domain.get(domain).is_some_and(|(_, until)| Instant::now() < *until)
    }

    fn note(&mut self, domain: &str, outcome: Result<(), String>) {
        let Err(reason) = outcome else {
            // The first failure after this is a first one.
            self.by_domain.insert(domain.to_owned(), (FIRST_PAUSE / 2, Instant::now() + PAUSE_AFTER_SUCCESS));
            return;
        };
        let before = self.by_domain.get(domain).map(|(pause, _)| *pause * 2);
        let pause = before.unwrap_or(FIRST_PAUSE).min(LONGEST_PAUSE);
        tracing::error!(domain, reason, retry_in_s = pause.as_secs(), "There is no new certificate");
        self.by_domain.insert(domain.to_owned(), (pause, Instant::now() + pause));
    }

    fn forget_all_but(&mut self, wanted: &AutomaticHttps) {
        self.by_domain.retain(|domain, _| wanted.orders.iter().any(|order| order.domain == *domain));
    }

    /// Time to the end of the next pause.
    fn next(&self) -> Option<Duration> {
        let now = Instant::now();
        let left = self.by_domain.values().map(|(_, until)| until.saturating_duration_since(now));
        left.filter(|left| !left.is_zero()).min()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;
    use crate::config::model::ObjectRef;

    fn chain(names: &[&str]) -> String {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 3, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn is_due(order: &CertificateOrder, renew_before: Duration, now: SystemTime) -> bool {
        due_in(order, renew_before, now).is_zero()
    }

    #[test]
    fn a_pause_that_is_over_wakes_nobody() {
        let mut failures = Failures::default();
        failures.by_domain.insert("a.com".into(), (FIRST_PAUSE, Instant::now()));
        assert_eq!(failures.next(), None);
    }

    #[test]
    fn what_is_missing_wrong_or_old_is_ordered() {
        let secret = ObjectRef {
            kind: "Secret".into(),
            namespace: "higress-system".into(),
            name: "a".into(),
            file: PathBuf::from("secrets/a.yaml"),
        };
        // 1 February and 20 February 2026.
        let (early, late) =
            [1_769_904_000, 1_771_545_600].map(|secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs)).into();
        let month = Duration::from_secs(14 * 86_400);
        let order = CertificateOrder { domain: "a.com".into(), secret: secret.clone(), chain: Some(chain(&["a.com"])) };
        let year = Duration::from_secs(365 * 86_400);
        let young = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_571_200);
        assert!(is_due(&order, year, early) && !is_due(&order, year, young), "not in the first third of its life");
        for (chain, now, expected) in [
            (None, early, true),
            (Some("nonsense".to_owned()), early, true),
            (Some(chain(&["a.com"])), early, false),
            (Some(chain(&["a.com"])), late, true),
            (Some(chain(&["b.com"])), early, true),
        ] {
            let order = CertificateOrder { domain: "a.com".into(), secret: secret.clone(), chain };
            assert_eq!(is_due(&order, month, now), expected, "{order:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_repeated_after_growing_pauses() {
        let mut failures = Failures::default();
        for pause in [60, 120, 240] {
            failures.note("a.com", Err("refused".into()));
            assert!(failures.is_pausing("a.com") && !failures.is_pausing("b.com"));
            assert_eq!(failures.next(), Some(Duration::from_secs(pause)));
            tokio::time::advance(Duration::from_secs(pause)).await;
            assert!(!failures.is_pausing("a.com"));
        }
        failures.note("a.com", Ok(()));
        assert!(
            failures.is_pausing("a.com"),
            "an authority is not asked again at once, whatever became of its certificate"
        );
        assert_eq!(failures.next(), Some(PAUSE_AFTER_SUCCESS));
        failures.note("a.com", Err("refused".into()));
        assert_eq!(failures.next(), Some(FIRST_PAUSE));
    }
}
