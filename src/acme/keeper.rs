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
    let mut keeper = Keeper { authority, shelf, pauses: Pauses::default(), in_hand: HashMap::new() };
    loop {
        keeper.round().await;
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep(keeper.rest()) => {}
        }
    }
}

struct Keeper {
    authority: Authority,
    shelf: Arc<dyn Shelf>,
    pauses: Pauses,
    /// What was issued and could not be put onto the shelf: authorities give only a few for the same names.
    in_hand: HashMap<String, Issued>,
}

impl Keeper {
    /// Orders everything that is due.
    async fn round(&mut self) {
        let domains = |wanted: AutomaticHttps| wanted.orders.into_iter().map(|order| order.domain).collect();
        let domains: Vec<String> = self.shelf.wanted().map(domains).unwrap_or_default();
        self.pauses.forget_all_but(&domains);
        self.in_hand.retain(|domain, _| domains.contains(domain));
        self.shelf.forget_all_but(&domains);
        for domain in domains {
            // An order takes minutes, and something else may be wanted by then.
            let Some(wanted) = self.shelf.wanted() else { return };
            let Some(order) = wanted.orders.iter().find(|order| order.domain == domain) else { continue };
            if self.wait(order, &wanted).is_zero() {
                let outcome = self.issue(&wanted, order).await;
                self.shelf.ended(&domain, outcome.as_ref().err().map(String::as_str));
                self.pauses.note(&domain, outcome);
            }
        }
    }

    /// How long until there is something to do.
    fn rest(&self) -> Duration {
        let wanted = self.shelf.wanted();
        let waits = wanted.iter().flat_map(|wanted| wanted.orders.iter().map(|order| self.wait(order, wanted)));
        waits.min().unwrap_or(LOOK_EVERY).min(LOOK_EVERY)
    }

    fn wait(&self, order: &CertificateOrder, wanted: &AutomaticHttps) -> Duration {
        let due = due_in(order, wanted.renew_before, SystemTime::now());
        if due.is_zero() && self.in_hand.contains_key(&order.domain) {
            return self.pauses.left_to_store(&order.domain);
        }
        due.max(self.pauses.left(&order.domain, order.chain.is_some()))
    }

    async fn issue(&mut self, wanted: &AutomaticHttps, order: &CertificateOrder) -> Result<(), String> {
        let domain = &order.domain;
        let issued = match self.in_hand.remove(domain) {
            Some(issued) => issued,
            None => {
                self.shelf
                    .check(order)
                    .map_err(|reason| format!("it is not ordered, as it could not be stored: {reason}"))?;
                tracing::info!(domain, directory = self.authority.directory, "Ordering a certificate");
                self.authority.issue(domain, wanted.email.as_deref()).await?
            }
        };
        if let Err(reason) = self.shelf.put(order, &issued) {
            self.in_hand.insert(domain.clone(), issued);
            return Err(format!("it was issued and is kept until it can be stored: {reason}"));
        }
        tracing::info!(domain, secret = %order.secret, "A certificate was issued");
        Ok(())
    }
}

/// How long until there must be another certificate for the domain; zero where there is none, or not for much longer. One that lives
/// for a day is renewed hours before.
fn due_in(order: &CertificateOrder, renew_before: Duration, now: SystemTime) -> Duration {
    let leaf = order.chain.as_deref().and_then(Leaf::of).filter(|leaf| leaf.names.contains(&order.domain));
    leaf.map_or(Duration::ZERO, |leaf| leaf.time_left(now).saturating_sub(renewal_window(leaf.lifetime, renew_before)))
}

/// The end of a certificate's life in which it is renewed.
pub fn renewal_window(lifetime: Duration, renew_before: Duration) -> Duration {
    let part = renew_before.as_secs_f64() / USUAL_LIFETIME.as_secs_f64();
    lifetime.mul_f64(part.min(LARGEST_PART))
}

/// Domains that are not ordered for the moment.
#[derive(Default)]
struct Pauses {
    by_domain: HashMap<String, Pause>,
}

struct Pause {
    /// The last order brought a certificate.
    has_succeeded: bool,
    since: Instant,
    /// After a failure; that of the next one is twice as long.
    length: Duration,
}

impl Pauses {
    /// How long a domain is not ordered yet. What was issued and is not there any more is not missed for long.
    fn left(&self, domain: &str, is_there: bool) -> Duration {
        self.by_domain.get(domain).map_or(Duration::ZERO, |pause| {
            let length = match (pause.has_succeeded, is_there) {
                (true, true) => PAUSE_AFTER_SUCCESS,
                (true, false) => FIRST_PAUSE,
                (false, _) => pause.length,
            };
            length.saturating_sub(pause.since.elapsed())
        })
    }

    /// The same of one that is issued, and only has to be stored: whatever hindered that, the authority has no part in it.
    fn left_to_store(&self, domain: &str) -> Duration {
        let since = self.by_domain.get(domain).map(|pause| pause.since.elapsed());
        FIRST_PAUSE.saturating_sub(since.unwrap_or(FIRST_PAUSE))
    }

    fn note(&mut self, domain: &str, outcome: Result<(), String>) {
        let has_succeeded = outcome.is_ok();
        let before = self.by_domain.get(domain).filter(|pause| !pause.has_succeeded);
        let length = before.map_or(FIRST_PAUSE, |pause| pause.length * 2).min(LONGEST_PAUSE);
        if let Err(reason) = outcome {
            tracing::error!(domain, reason, retry_in_s = length.as_secs(), "There is no new certificate");
        }
        self.by_domain.insert(domain.to_owned(), Pause { has_succeeded, since: Instant::now(), length });
    }

    fn forget_all_but(&mut self, domains: &[String]) {
        self.by_domain.retain(|domain, _| domains.contains(domain));
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
        let mut pauses = Pauses::default();
        for pause in [60, 120, 240] {
            pauses.note("a.com", Err("refused".into()));
            assert_eq!(pauses.left("a.com", false), Duration::from_secs(pause));
            assert_eq!((pauses.left("b.com", false), pauses.left_to_store("a.com")), (Duration::ZERO, FIRST_PAUSE));
            tokio::time::advance(Duration::from_secs(pause)).await;
            assert_eq!(pauses.left("a.com", false), Duration::ZERO);
        }
        pauses.note("a.com", Ok(()));
        let left = [true, false].map(|is_there| pauses.left("a.com", is_there));
        assert_eq!(
            left,
            [PAUSE_AFTER_SUCCESS, FIRST_PAUSE],
            "an authority is not asked again at once, whatever became of its certificate"
        );
        pauses.note("a.com", Err("refused".into()));
        assert_eq!(pauses.left("a.com", true), FIRST_PAUSE);
    }
}
