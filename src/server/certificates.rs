//! Certificates in this process: orders go out over the exchange's connections, challenges are answered by the proxy, and what
//! was issued becomes a Secret in the configuration folder, as in Higress, from where every change of the folder is served.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use pingora_http::RequestHeader;
use tokio::sync::Notify;

use super::reload::{Reloaded, Reloader};
use crate::acme::{Answer, Authority, Issued, Leaf, Shelf, Stage, Transport, certificate_faults};
use crate::base::tasks::Tasks;
use crate::config::model::{AutomaticHttps, Certificate, CertificateOrder};
use crate::config::{Problem, Settings, replace, tls_secret, try_to_write};
use crate::plugins::{Destination, HttpCall};
use crate::proxy::challenge::Challenges;
use crate::proxy::exchange::Exchange;
use crate::proxy::snapshot::Snapshot;
use crate::telemetry::metrics::{ByDomain, BySecret, Metrics, OrderResult};

/// For one request to an authority.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What is wrong with certificates is said once a day.
const LOOK_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// What the parts below need of the process.
pub struct Parts {
    pub settings: Arc<Settings>,
    pub exchange: Arc<Exchange>,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub challenges: Arc<Challenges>,
    pub metrics: Arc<Metrics>,
    pub failing: Arc<FailingOrders>,
}

/// Why there is no new certificate, by domain.
pub type FailingOrders = Mutex<BTreeMap<String, String>>;

/// Starts ordering certificates and watching when they expire.
pub fn start(parts: Parts, reloader: &Arc<Reloader>, tasks: &Tasks) {
    let Parts { settings, exchange, snapshot, challenges, metrics, failing } = parts;
    let authority = Authority {
        directory: settings.acme.directory.clone(),
        challenge: settings.acme.challenge,
        file: settings.data_dir.join("acme-account.json"),
        transport: Arc::new(Client { exchange, snapshot }),
        stage: challenges,
    };
    let shelf = Arc::new(FolderShelf { settings, reloader: reloader.clone(), metrics: metrics.clone(), failing });
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

/// Keeps the metric of each served certificate, and says what clients will refuse of them.
async fn watch_expiry(reloader: Arc<Reloader>, metrics: Arc<Metrics>, changed: Arc<Notify>) {
    let mut said: HashMap<Problem, Instant> = HashMap::new();
    loop {
        let (ordered, certificates) = reloader.certificates();
        metrics.certificate_not_after.clear();
        for Certificate { secret, chain, .. } in &certificates {
            let Some(leaf) = Leaf::of(chain) else { continue };
            let name = format!("{}/{}", secret.namespace, secret.name);
            let not_after = leaf.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let gauge = metrics.certificate_not_after.get_or_create_owned(&BySecret { secret: name });
            gauge.set(i64::try_from(not_after).unwrap_or(i64::MAX));
        }
        // A configuration that changes often must not repeat it each time.
        said.retain(|_, at| at.elapsed() < LOOK_EVERY);
        for problem in certificate_faults(&certificates, ordered.as_ref(), SystemTime::now()) {
            if let Entry::Vacant(entry) = said.entry(problem) {
                tracing::warn!(problem = %entry.key(), "Certificate");
                entry.insert(Instant::now());
            }
        }
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
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
    failing: Arc<FailingOrders>,
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

    fn check(&self, order: &CertificateOrder) -> Result<(), String> {
        let file = &order.secret.file;
        try_to_write(&self.settings.config_dir, file)
            .map_err(|error| format!("{} cannot be written: {error}", file.display()))
    }

    fn ended(&self, domain: &str, error: Option<&str>) {
        let result = if error.is_some() { "failed" } else { "issued" };
        self.metrics.certificate_orders.get_or_create(&OrderResult { result }).inc();
        let label = ByDomain { domain: domain.to_owned() };
        self.metrics.certificate_failing.get_or_create(&label).set(i64::from(error.is_some()));
        match error {
            Some(error) => drop(self.failing.lock().insert(domain.to_owned(), error.to_owned())),
            None => drop(self.failing.lock().remove(domain)),
        }
    }

    fn forget_all_but(&self, domains: &[String]) {
        self.failing.lock().retain(|domain, _| {
            let is_wanted = domains.contains(domain);
            if !is_wanted {
                self.metrics.certificate_failing.remove(&ByDomain { domain: domain.clone() });
            }
            is_wanted
        });
    }
}
