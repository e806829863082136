//! Addresses that change while a configuration serves: those of DNS names, and those registries report.
//!
//! Names are resolved on first use. When an answer's time to live is over, the next use starts a lookup in the background
//! and goes on with the old addresses, unless that time has long been over. A failed lookup keeps them; an answer that there are none ends them, as
//! in Envoy: whoever has an address by then may be somebody else. A service with several names is served by those that
//! resolve. Registries' addresses are put here by `server`.
//!
//! Answers come from the name servers in `/etc/resolv.conf` and from `/etc/hosts`, because only they say how long they are
//! good for. What these do not know is asked of the system (getaddrinfo), which may know names from elsewhere.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all, select_ok};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use crate::base::tasks::Tasks;

/// How long addresses are used whose answer says nothing about it.
const SYSTEM_REFRESH: Duration = Duration::from_secs(30);

/// Bounds of what an answer says: a time to live of zero must not mean a lookup per request, and one of a day must not
/// outlive a change of `/etc/hosts`.
const SHORTEST_USE: Duration = Duration::from_secs(1);
const LONGEST_USE: Duration = Duration::from_secs(300);

/// Until the next try where a name that has addresses could not be looked up again.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// A name that nobody has used for so long after its time is looked up before it is used, for no longer than the patience.
const LONG_OVER: Duration = Duration::from_secs(10);
const REFRESH_PATIENCE: Duration = Duration::from_secs(2);

/// How long a name that does not resolve is not asked for again.
const FAILURE_HOLDS: Duration = Duration::from_secs(1);

/// A service's addresses as a registry reported them last.
pub type Reported = Arc<ArcSwap<Vec<SocketAddr>>>;

/// Names and services in use, shared by all snapshots so that a reload does not forget addresses.
pub struct Resolver {
    names: Mutex<HashMap<(String, u16), Arc<DnsName>>>,
    reported: Mutex<HashMap<(String, u16), Reported>>,
    dns: Dns,
    tasks: Tasks,
}

/// A name with the port its addresses get.
pub struct DnsName {
    pub host: String,
    port: u16,
    resolved: ArcSwapOption<Resolved>,
    /// Held by the lookup of a name without addresses, whom all who need one wait for. When that failed last, and why.
    failed: AsyncMutex<Option<(Instant, String)>>,
}

impl DnsName {
    /// Whether this is one of its addresses.
    pub fn has(&self, address: SocketAddr) -> bool {
        self.resolved.load().as_ref().is_some_and(|resolved| resolved.addresses.contains(&address))
    }

    /// After a lookup without addresses: the `old` ones stay only where nobody could be asked.
    fn forget(&self, reason: &NoAddress, old: &[SocketAddr]) {
        match reason {
            NoAddress::Failed(error) => {
                tracing::warn!(host = self.host, error, "DNS refresh failed; the old addresses stay in use");
                let until = Instant::now() + AFTER_FAILURE;
                self.resolved.store(Some(Arc::new(Resolved { addresses: old.to_vec(), until })));
            }
            NoAddress::Gone(error) => {
                tracing::warn!(host = self.host, error, "The DNS has no address of a service any more");
                self.resolved.store(None);
            }
        }
    }
}

struct Resolved {
    addresses: Vec<SocketAddr>,
    until: Instant,
}

/// Why there are no addresses.
#[derive(Debug, Clone)]
enum NoAddress {
    /// Whoever should know could not be asked.
    Failed(String),
    /// They were asked: there are none.
    Gone(String),
}

impl NoAddress {
    fn into_text(self) -> String {
        match self {
            NoAddress::Failed(text) | NoAddress::Gone(text) => text,
        }
    }
}

impl Resolver {
    pub fn new(tasks: Tasks) -> Resolver {
        Resolver { names: Mutex::default(), reported: Mutex::default(), dns: Dns::default(), tasks }
    }

    pub fn name(&self, host: &str, port: u16) -> Arc<DnsName> {
        let mut names = self.names.lock();
        let fresh =
            || DnsName { host: host.to_owned(), port, resolved: ArcSwapOption::empty(), failed: AsyncMutex::default() };
        names.entry((host.to_owned(), port)).or_insert_with(|| Arc::new(fresh())).clone()
    }

    /// Where the reported addresses of a service are found; empty until there are any.
    pub fn reported(&self, service: &str, port: u16) -> Reported {
        self.reported.lock().entry((service.to_owned(), port)).or_default().clone()
    }

    /// A registry reports new addresses: every snapshot uses them from now on.
    pub fn report(&self, service: &str, port: u16, addresses: Vec<SocketAddr>) {
        self.reported(service, port).store(Arc::new(addresses));
    }

    /// Forgets names that no snapshot asks for any more, and services that no registry reports either.
    pub fn forget_unused(&self) {
        self.names.lock().retain(|_, name| Arc::strong_count(name) > 1);
        self.reported.lock().retain(|_, reported| Arc::strong_count(reported) > 1 || !reported.load().is_empty());
    }

    /// The addresses of all `names` that have some.
    ///
    /// # Errors
    /// None of them resolves, and none did before.
    pub async fn addresses(&self, names: &[Arc<DnsName>]) -> Result<Vec<SocketAddr>, String> {
        let (known, unknown): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.resolved.load().is_some());
        if names.is_empty() {
            return Err("there is no name to look up".to_owned());
        }
        if known.is_empty() {
            // The first that answers will do; the others go on in the background.
            let lookups = unknown.into_iter().map(|name| self.first_lookup(name));
            return match select_ok(lookups).await {
                Ok((addresses, _)) => Ok(addresses),
                Err(error) => Err(error),
            };
        }
        for name in unknown {
            let is_due = name.failed.try_lock().is_ok_and(|failed| !still_holds(&failed));
            if is_due {
                drop(self.first_lookup(name));
            }
        }
        let long_over: Vec<_> = known.iter().filter_map(|name| self.refresh(name)).collect();
        if !long_over.is_empty() {
            // Whoever has these addresses now may be somebody else; but old ones are better than none.
            let _ = tokio::time::timeout(REFRESH_PATIENCE, join_all(long_over)).await;
        }
        let addresses = |name: &Arc<DnsName>| name.resolved.load().as_ref().map(|known| known.addresses.clone());
        Ok(known.into_iter().filter_map(addresses).flatten().collect())
    }

    /// Looks for the addresses of a name again, in the background, if their time is over; what to wait for if it has long been.
    fn refresh(&self, name: &Arc<DnsName>) -> Option<oneshot::Receiver<()>> {
        let resolved = name.resolved.load_full()?;
        let over_since = Instant::now().checked_duration_since(resolved.until).filter(|over| !over.is_zero())?;
        // Mark first, so that one request of many starts the lookup.
        let until = Instant::now() + SYSTEM_REFRESH;
        name.resolved.store(Some(Arc::new(Resolved { addresses: resolved.addresses.clone(), until })));
        let (name, dns, addresses) = (name.clone(), self.dns.clone(), resolved.addresses.clone());
        let (tell, told) = oneshot::channel();
        self.tasks.spawn(async move {
            if let Err(reason) = dns.lookup(&name).await {
                name.forget(&reason, &addresses);
            }
            // Nobody may be waiting.
            let _ = tell.send(());
        });
        (over_since > LONG_OVER).then_some(told)
    }

    /// Looks a name up that has no address yet. In the background, so that whoever waits may give up, and whoever comes meanwhile
    /// waits for the same lookup.
    fn first_lookup(&self, name: &Arc<DnsName>) -> BoxFuture<'static, Result<Vec<SocketAddr>, String>> {
        let (tell, told) = oneshot::channel();
        let (name, dns) = (name.clone(), self.dns.clone());
        self.tasks.spawn(async move {
            // Nobody may be waiting.
            let _ = tell.send(dns.first_lookup(&name).await);
        });
        told.map(|told| told.unwrap_or_else(|_| Err("the lookup was broken off".to_owned()))).boxed()
    }
}

/// Whether a name is known not to resolve.
fn still_holds(failed: &Option<(Instant, String)>) -> bool {
    failed.as_ref().is_some_and(|(at, _)| at.elapsed() < FAILURE_HOLDS)
}

/// The DNS client, made anew when the files it was made from change.
#[derive(Clone, Default)]
struct Dns {
    current: Arc<Mutex<Option<(Stamp, TokioResolver)>>>,
}

/// When the files were changed last.
type Stamp = [Option<SystemTime>; 2];

impl Dns {
    async fn first_lookup(&self, name: &DnsName) -> Result<Vec<SocketAddr>, String> {
        let mut failed = name.failed.lock().await;
        if let Some(resolved) = name.resolved.load_full() {
            return Ok(resolved.addresses.clone());
        }
        if let Some((_, error)) = failed.as_ref().filter(|_| still_holds(&failed)) {
            return Err(error.clone());
        }
        let found = self.lookup(name).await.map_err(NoAddress::into_text);
        found.inspect_err(|error| *failed = Some((Instant::now(), error.clone())))
    }

    async fn lookup(&self, name: &DnsName) -> Result<Vec<SocketAddr>, NoAddress> {
        let (addresses, until) = match self.ask(name).await {
            Ok(answer) => answer,
            // The time to live counts again as soon as the name servers answer.
            Err(NoAddress::Failed(_)) if self.client().is_some() => {
                let found = ask_system(name).await.map_err(|error| NoAddress::Failed(error.into_text()))?;
                (found, Instant::now() + AFTER_FAILURE)
            }
            Err(_) => (ask_system(name).await?, Instant::now() + SYSTEM_REFRESH),
        };
        name.resolved.store(Some(Arc::new(Resolved { addresses: addresses.clone(), until })));
        Ok(addresses)
    }

    async fn ask(&self, name: &DnsName) -> Result<(Vec<SocketAddr>, Instant), NoAddress> {
        let client = self.client().ok_or_else(|| NoAddress::Failed("there is no name server".to_owned()))?;
        let found = client.lookup_ip(name.host.as_str()).await.map_err(|error| match error.is_no_records_found() {
            true => NoAddress::Gone(error.to_string()),
            false => NoAddress::Failed(error.to_string()),
        })?;
        let now = Instant::now();
        let until = found.valid_until().clamp(now + SHORTEST_USE, now + LONGEST_USE);
        let addresses: Vec<SocketAddr> = found.iter().map(|ip| SocketAddr::new(ip, name.port)).collect();
        if addresses.is_empty() {
            return Err(NoAddress::Gone(format!("{} has no address", name.host)));
        }
        Ok((addresses, until))
    }

    fn client(&self) -> Option<TokioResolver> {
        let changed = |path| Path::new(path).metadata().and_then(|metadata| metadata.modified()).ok();
        let stamp = [changed("/etc/resolv.conf"), changed("/etc/hosts")];
        let mut current = self.current.lock();
        if let Some((_, client)) = current.as_ref().filter(|(of, _)| *of == stamp) {
            return Some(client.clone());
        }
        let mut builder = TokioResolver::builder_tokio().ok()?;
        let options = builder.options_mut();
        // The names keep their answers themselves.
        options.cache_size = 0;
        // As Istio resolves for Envoy: a machine without a route for IPv6 must not try every other address in vain.
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        let client = builder.build().ok()?;
        *current = Some((stamp, client.clone()));
        Some(client)
    }
}

async fn ask_system(name: &DnsName) -> Result<Vec<SocketAddr>, NoAddress> {
    /// How getaddrinfo says that it could not ask (`EAI_AGAIN`); the standard library gives no more than the words.
    const COULD_NOT_ASK: &str = "Temporary failure";
    let found = tokio::net::lookup_host((name.host.as_str(), name.port)).await.map_err(|error| {
        let text = format!("{} does not resolve: {error}", name.host);
        if text.contains(COULD_NOT_ASK) { NoAddress::Failed(text) } else { NoAddress::Gone(text) }
    })?;
    let addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        return Err(NoAddress::Gone(format!("{} has no address", name.host)));
    }
    Ok(addresses)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test waits for its own tasks")]
mod tests {
    use std::net::IpAddr;
    use std::slice;

    use hickory_resolver::config::{NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use tokio::net::UdpSocket;
    use tokio::runtime::Handle;

    use super::*;

    /// Answers every question for addresses with those of these that have the version asked for, and a time to live.
    async fn name_server(addresses: &'static [&'static str], ttl: u32) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((n, from)) = socket.recv_from(&mut question).await {
                let name_end = 12 + question[12..n].iter().position(|byte| *byte == 0).unwrap() + 1;
                let kind = question[name_end + 1];
                let fitting = addresses.iter().filter_map(|address| match (address.parse().unwrap(), kind) {
                    (IpAddr::V4(ip), 1) => Some(ip.octets().to_vec()),
                    (IpAddr::V6(ip), 28) => Some(ip.octets().to_vec()),
                    _ => None,
                });
                let addresses: Vec<Vec<u8>> = fitting.collect();
                let mut answer = question[..2].to_vec();
                answer.extend([0x81, 0x80, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
                answer.extend_from_slice(&question[12..name_end + 4]);
                for address in addresses {
                    answer.extend([0xc0, 12, 0, kind, 0, 1]);
                    answer.extend(ttl.to_be_bytes());
                    answer.extend([0, address.len() as u8]);
                    answer.extend(address);
                }
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        at
    }

    fn asking(server: SocketAddr) -> Resolver {
        let resolver = Resolver::new(Tasks::new(Handle::current()));
        let mut name_server = NameServerConfig::udp(server.ip());
        name_server.connections.iter_mut().for_each(|connection| connection.port = server.port());
        let config = ResolverConfig::from_parts(None, vec![], vec![name_server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().cache_size = 0;
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        resolver.dns.client();
        let stamp = resolver.dns.current.lock().as_ref().map(|(stamp, _)| *stamp).unwrap();
        *resolver.dns.current.lock() = Some((stamp, builder.build().unwrap()));
        resolver
    }

    #[tokio::test]
    async fn all_addresses_are_used_for_as_long_as_the_answer_says() {
        for (ttl, used) in [(60, 60), (0, 1), (86_400, 300)] {
            let resolver = asking(name_server(&["10.0.0.1", "10.0.0.2"], ttl).await);
            let name = resolver.name("a.example.com", 443);
            let mut addresses = resolver.addresses(slice::from_ref(&name)).await.unwrap();
            addresses.sort_unstable();
            assert_eq!(addresses, ["10.0.0.1:443".parse::<SocketAddr>().unwrap(), "10.0.0.2:443".parse().unwrap()]);
            let until = name.resolved.load_full().unwrap().until;
            let left = until.saturating_duration_since(Instant::now()).as_secs_f64();
            assert!(left <= f64::from(used) && left > f64::from(used) - 1.0, "{ttl}: {left}");
        }
    }

    #[tokio::test]
    async fn addresses_whose_time_has_long_been_over_are_looked_up_before_they_are_used() {
        let resolver = asking(name_server(&["10.0.0.2"], 60).await);
        let name = resolver.name("a.example.com", 443);
        let old = vec!["10.0.0.1:443".parse::<SocketAddr>().unwrap()];
        for (over, expected) in [(Duration::from_millis(1), "10.0.0.1:443"), (2 * LONG_OVER, "10.0.0.2:443")] {
            let until = Instant::now().checked_sub(over).unwrap();
            name.resolved.store(Some(Arc::new(Resolved { addresses: old.clone(), until })));
            let found = resolver.addresses(slice::from_ref(&name)).await.unwrap();
            assert_eq!(found, [expected.parse::<SocketAddr>().unwrap()], "{over:?}");
        }
    }

    /// Regression: what the DNS no longer knew was used for ever.
    #[tokio::test]
    async fn an_answer_that_there_are_no_addresses_is_told_from_none() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        for (server, is_gone) in [(name_server(&[], 60).await, true), (silent, false)] {
            let resolver = asking(server);
            let asked = resolver.dns.ask(&resolver.name("a.example.com", 443)).await.unwrap_err();
            assert_eq!(matches!(asked, NoAddress::Gone(_)), is_gone, "{asked:?}");
        }
    }

    #[tokio::test]
    async fn addresses_go_when_there_are_none_and_stay_when_nobody_can_be_asked() {
        let resolver = Resolver::new(Tasks::new(Handle::current()));
        let name = resolver.name("a.example.com", 443);
        let old = vec!["10.0.0.1:443".parse::<SocketAddr>().unwrap()];
        for (found, is_kept) in [(NoAddress::Failed(String::new()), true), (NoAddress::Gone(String::new()), false)] {
            name.forget(&found, &old);
            assert_eq!(name.resolved.load().is_some(), is_kept, "{found:?}");
        }
    }

    #[tokio::test]
    async fn a_name_with_addresses_of_version_6_alone_has_those() {
        for (addresses, expected) in
            [(&["fd00::1"][..], "[fd00::1]:443"), (&["fd00::1", "10.0.0.1"][..], "10.0.0.1:443")]
        {
            let resolver = asking(name_server(addresses, 60).await);
            let found = resolver.addresses(&[resolver.name("a.example.com", 443)]).await.unwrap();
            assert_eq!(found, [expected.parse::<SocketAddr>().unwrap()]);
        }
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_leaves_the_others_of_its_service() {
        let resolver = asking(name_server(&["10.0.0.1"], 60).await);
        // No name server is asked for a label as long as this.
        let dead = resolver.name(&format!("{}.example.com", "x".repeat(70)), 443);
        let names = [dead.clone(), resolver.name("a.example.com", 443)];
        for _ in 0..2 {
            assert_eq!(resolver.addresses(&names).await.unwrap(), ["10.0.0.1:443".parse::<SocketAddr>().unwrap()]);
        }
        assert!(resolver.addresses(slice::from_ref(&dead)).await.unwrap_err().contains("does not resolve"));
        let since = dead.failed.lock().await.as_ref().unwrap().0;
        resolver.addresses(slice::from_ref(&dead)).await.unwrap_err();
        assert_eq!(dead.failed.lock().await.as_ref().unwrap().0, since, "asked for again at once");
    }

    #[tokio::test]
    async fn reported_addresses_reach_those_who_asked_before() {
        let resolver = Resolver::new(Tasks::new(Handle::current()));
        let reported = resolver.reported("a.dc1.consul", 80);
        assert!(reported.load().is_empty());
        resolver.report("a.dc1.consul", 80, vec!["10.0.0.1:80".parse().unwrap()]);
        assert_eq!(reported.load().len(), 1);
    }

    #[tokio::test]
    async fn names_out_of_use_are_forgotten() {
        let resolver = Resolver::new(Tasks::new(Handle::current()));
        let used = resolver.name("a.example.com", 443);
        drop(resolver.name("b.example.com", 443));
        resolver.report("a.dc1.consul", 80, vec!["10.0.0.1:80".parse().unwrap()]);
        resolver.report("b.dc1.consul", 80, vec![]);
        resolver.forget_unused();
        assert_eq!(resolver.names.lock().len(), 1);
        assert!(Arc::ptr_eq(&used, &resolver.name("a.example.com", 443)));
        assert_eq!(
            resolver.reported.lock().keys().map(|(service, _)| service.as_str()).collect::<Vec<_>>(),
            ["a.dc1.consul"]
        );
    }
}
