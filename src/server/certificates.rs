//! Certificates in this process: orders go out over the exchange's connections, challenges are answered by the proxy, and what
//! was issued becomes a Secret in the configuration folder, as in Higress, from where every change of the folder is served.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use pingora_http::RequestHeader;
use tokio::sync::Notify;

use super::reload::{Reloaded, Reloader};
use crate::acme::{Answer, Authority, Issued, Leaf, Shelf, Stage, Transport};
use crate::base::tasks::Tasks;
use crate::config::model::{AutomaticHttps, Certificate, CertificateOrder};
use crate::config::{Problem, Settings, Severity, replace, tls_secret};
use crate::plugins::{Destination, HttpCall};
use crate::proxy::challenge::Challenges;
use crate::proxy::exchange::Exchange;
use crate::proxy::snapshot::Snapshot;
use crate::telemetry::metrics::{BySecret, Metrics, OrderResult};

/// For one request to an authority.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Certificates that have less than this left are spoken of, once a day.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * DAY_SECS);
const DAY_SECS: u64 = 24 * 60 * 60;
const LOOK_EVERY: Duration = Duration::from_secs(DAY_SECS);

/// What the parts below need of the process.
pub struct Parts {
    pub settings: Arc<Settings>,
    pub exchange: Arc<Exchange>,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub challenges: Arc<Challenges>,
    pub metrics: Arc<Metrics>,
}

/// Starts ordering certificates and watching when they expire.
pub fn start(parts: Parts, reloader: &Arc<Reloader>, tasks: &Tasks) {
    let Parts { settings, exchange, snapshot, challenges, metrics } = parts;
    let authority = Authority {
        directory: settings.acme.directory.clone(),
        challenge: settings.acme.challenge,
        file: settings.data_dir.join("acme-account.json"),
        transport: Arc::new(Client { exchange, snapshot }),
        stage: challenges,
    };
    let shelf = Arc::new(FolderShelf { settings, reloader: reloader.clone(), metrics: metrics.clone() });
    let (ordering, expiring) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    tasks.spawn_until_stopped(crate::acme::keep(authority, shelf, ordering.clone()));
    tasks.spawn_until_stopped(watch_expiry(reloader.clone(), metrics, expiring.clone()));
    let applied = reloader.applied.clone();
    tasks.spawn_until_stopped(async move {
        loop {
            applied.notified().await;
            ordering.notify_one();
            expiring.notify_one();
        }
    });
}

/// Keeps the metric of each served certificate, and warns of those that end soon.
async fn watch_expiry(reloader: Arc<Reloader>, metrics: Arc<Metrics>, changed: Arc<Notify>) {
    let mut warned: HashMap<String, Instant> = HashMap::new();
    loop {
        let (_, certificates) = reloader.certificates();
        warned.retain(|_, at| at.elapsed() < LOOK_EVERY);
        metrics.certificate_not_after.clear();
        for Certificate { hosts, secret, chain, .. } in &certificates {
            let Some(leaf) = Leaf::of(chain) else { continue };
            let name = format!("{}/{}", secret.namespace, secret.name);
            let not_after = leaf.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let gauge = metrics.certificate_not_after.get_or_create_owned(&BySecret { secret: name.clone() });
            gauge.set(i64::try_from(not_after).unwrap_or(i64::MAX));
            let left = leaf.time_left(SystemTime::now());
            // A configuration that changes often must not repeat it each time.
            if left < EXPIRY_WARNING && !warned.contains_key(&name) {
                warned.insert(name, Instant::now());
                tracing::warn!(
                    %secret,
                    hosts = hosts.join(","),
                    days_left = left.as_secs() / DAY_SECS,
                    "A certificate expires soon, or has expired; renew it in its Secret"
                );
            }
        }
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Warnings of certificates that have ended or soon will, one for each Secret.
pub fn ending_certificates(certificates: &[Certificate], now: SystemTime) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut seen = HashSet::new();
    for Certificate { hosts, secret, chain, .. } in certificates {
        let left = Leaf::of(chain).map(|leaf| leaf.time_left(now));
        let Some(left) = left.filter(|left| *left < EXPIRY_WARNING && seen.insert(secret)) else { continue };
        let end = match left.as_secs() / DAY_SECS {
            _ if left.is_zero() => "has expired".to_owned(),
            days => format!("expires in {days} days"),
        };
        let message = format!("the certificate of {} {end}", hosts.join(", "));
        let problem = Problem::error(secret, "data[tls.crt]", message);
        let hint = Some("renew it; clients refuse what has expired".to_owned());
        problems.push(Problem { severity: Severity::Warning, hint, ..problem });
    }
    problems
}

struct Client {
    exchange: Arc<Exchange>,
    snapshot: Arc<ArcSwap<Snapshot>>,
}

#[async_trait]
impl Transport for Client {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, String> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut head = RequestHeader::build(parts.method, path.as_bytes(), Some(parts.headers.len() + 2))
            .map_err(|error| error.to_string())?;
        for (name, value) in &parts.headers {
            head.append_header(name, value).map_err(|error| error.to_string())?;
        }
        let to = Destination::Url(parts.uri.to_string());
        let call = HttpCall { to, head, body, timeout: TIMEOUT, is_question: false, may_cut: false };
        let answer = self.exchange.http(&self.snapshot.load_full(), call).await?;
        let mut response = http::Response::new(answer.body);
        *response.status_mut() = answer.head.status;
        *response.headers_mut() = answer.head.headers.clone();
        Ok(response)
    }
}

impl Stage for Challenges {
    fn show(&self, answer: &Answer) -> Result<(), String> {
        match answer {
            Answer::Http { token, text } => {
                self.texts.show(token, text);
                Ok(())
            }
            Answer::Tls { domain, certificate, key } => self.keys.show(domain, certificate, &key.0),
        }
    }

    fn remove(&self, answer: &Answer) {
        match answer {
            Answer::Http { token, .. } => self.texts.remove(token),
            Answer::Tls { domain, .. } => self.keys.remove(domain),
        }
    }
}

/// Secrets in the configuration folder.
struct FolderShelf {
    settings: Arc<Settings>,
    reloader: Arc<Reloader>,
    metrics: Arc<Metrics>,
}

impl Shelf for FolderShelf {
    fn wanted(&self) -> Option<AutomaticHttps> {
        self.reloader.certificates().0
    }

    fn put(&self, order: &CertificateOrder, issued: &Issued) -> Result<(), String> {
        let (root, file) = (&self.settings.config_dir, &order.secret.file);
        let before = fs::read_to_string(root.join(file)).ok();
        let text = tls_secret(before.as_deref(), &order.secret, &issued.chain, issued.key.expose())?;
        replace(root, &[(file.clone(), Some(text.into_bytes()))], root)
            .map_err(|(file, error)| format!("{} cannot be written: {error}", file.display()))?;
        // The watcher would do so a little later, if there is one.
        match tokio::task::block_in_place(|| self.reloader.reload())? {
            Reloaded::Applied(_) | Reloaded::Unchanged => Ok(()),
            Reloaded::Refused(_) => Err(format!(
                "the certificate is in {} and not served: something else in the folder keeps the configuration from going live",
                file.display()
            )),
        }
    }

    fn count(&self, is_issued: bool) {
        let result = if is_issued { "issued" } else { "failed" };
        self.metrics.certificate_orders.get_or_create(&OrderResult { result }).inc();
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;
    use crate::base::secret::Secret;
    use crate::config::model::{ObjectRef, TlsOptions};

    #[test]
    fn certificates_that_end_are_named_before_clients_refuse_them() {
        let secret = |name: &str| ObjectRef {
            kind: "Secret".into(),
            namespace: "higress-system".into(),
            name: name.into(),
            file: format!("secrets/{name}.yaml").into(),
        };
        let certificate = |name: &str, end: (i32, u8, u8)| {
            let mut params = CertificateParams::new(vec!["a.com".to_owned()]).unwrap();
            params.not_before = date_time_ymd(2025, 1, 1);
            params.not_after = date_time_ymd(end.0, end.1, end.2);
            let chain = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
            let hosts = vec!["a.com".to_owned()];
            Certificate { hosts, secret: secret(name), chain, key: Secret::default(), options: TlsOptions::default() }
        };
        let certificates = [
            certificate("good", (2026, 3, 1)),
            certificate("soon", (2026, 2, 10)),
            certificate("gone", (2026, 1, 31)),
            certificate("gone", (2026, 1, 31)),
        ];
        // 1 February 2026.
        let now = UNIX_EPOCH + Duration::from_secs(1_769_904_000);
        let lines: Vec<String> = ending_certificates(&certificates, now).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "warning: secrets/soon.yaml: Secret higress-system/soon: data[tls.crt]: the certificate of a.com expires in 9 days \
                 (renew it; clients refuse what has expired)",
                "warning: secrets/gone.yaml: Secret higress-system/gone: data[tls.crt]: the certificate of a.com has expired \
                 (renew it; clients refuse what has expired)",
            ]
        );
    }
}
