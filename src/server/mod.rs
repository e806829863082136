//! Composition root: the only place that names concrete types of all modules. Starts, reloads and drains the process.
//!
//! Order at start: read settings, bind every socket, compile the configuration, open the store, build the snapshot; only
//! then accept. So a wrong configuration or a taken port is told at once, with its exit code, and readiness means ready.

mod certificates;
mod control;
mod history;
mod host;
pub mod knowledge;
mod outages;
pub mod outside;
mod registries;
mod reload;
mod sockets;
mod start_error;
mod workers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use self::certificates::FailingOrders;
use self::history::History;
use self::host::{LiveServices, ProcessHost};
use self::registries::Registries;
use self::reload::Reloader;
use self::sockets::Sockets;
pub use self::start_error::StartError;
use self::workers::Workers;
pub use crate::acme::certificate_faults;
use crate::admin;
use crate::base::tasks::Tasks;
use crate::config::Watcher;
use crate::config::settings::{AccessLog as AccessLogTarget, LogFormat, Settings};
use crate::flywheel::{Flywheel, Options as FlywheelOptions};
use crate::infer::{Engine, Library};
use crate::learning::follow::{self, Triggers};
use crate::learning::live::Routers;
use crate::mcp::Mcp;
use crate::plugins::Host;
use crate::proxy::challenge::Challenges;
use crate::proxy::cluster::Clusters;
use crate::proxy::cluster::checks::Checks;
use crate::proxy::dubbo::Dubbo;
use crate::proxy::exchange::Exchange;
use crate::proxy::listener::Listeners;
use crate::proxy::mirror::Room;
use crate::proxy::resolve::Resolver;
use crate::proxy::service::Gateway;
use crate::proxy::snapshot::Snapshot;
use crate::rag::files::Files;
use crate::stores::Stores;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::{self, Span, SpanSink};

/// Runs the gateway until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting.
pub fn run(settings: Settings, config_dir_is_given: bool) -> Result<(), StartError> {
    let started = Instant::now();
    let json = settings.telemetry.log_format == LogFormat::Json;
    crate::telemetry::log::init(&settings.telemetry.log_level, json).map_err(StartError::Usage)?;
    let n_threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let sockets = Sockets::bind(&settings, n_threads)?;
    let background = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("background")
        .enable_all()
        .build()
        .map_err(|error| StartError::Io { what: "the background threads cannot be started".into(), error })?;
    let result = Process::start(settings, sockets, config_dir_is_given, &background, started)
        .map(|process| background.block_on(process.serve_until_told()));
    // Whatever still runs has had its time.
    background.shutdown_timeout(Duration::from_millis(200));
    result
}

/// What of the settings only a start would show.
///
/// # Errors
/// The setting that is wrong, and why.
pub fn check(settings: &Settings) -> Result<(), String> {
    crate::telemetry::log::parse(&settings.telemetry.log_level)?;
    outside::outside(settings, SocketAddr::new(settings.listen.bind, settings.listen.http_port)).map(|_| ())
}

/// Everything that lives as long as the process.
struct Process {
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    exchange: Arc<Exchange>,
    flywheel: Option<Flywheel>,
    stop: watch::Sender<bool>,
    health: admin::Health,
    workers: Workers,
    /// Connections on which a request is about to begin, and those passed through.
    at_work: TaskTracker,
    stopping: Arc<AtomicBool>,
    access_log: AccessLog,
    signals: control::StopSignals,
    /// Watching ends when this is dropped.
    _watcher: Option<Watcher>,
}

impl Process {
    fn start(
        settings: Settings,
        sockets: Sockets,
        config_dir_is_given: bool,
        background: &Runtime,
        started: Instant,
    ) -> Result<Process, StartError> {
        let settings = Arc::new(settings);
        let metrics = Arc::new(Metrics::new());
        let tasks = Tasks::new(background.handle().clone());
        std::fs::create_dir_all(&settings.data_dir).map_err(|error| StartError::Io {
            what: format!(
                "the data folder {} cannot be made; create it or name another with --data-dir",
                settings.data_dir.display()
            ),
            error,
        })?;
        let flywheel = open_flywheel(&settings);
        metrics.flywheel_suspended.set(i64::from(flywheel.is_none()));
        let routers = Arc::new(Routers::default());
        let engine = Engine::new(Library::new(&settings.models_dir));
        let outside = outside::outside(&settings, sockets.http.address).map_err(StartError::Usage)?;
        let rag = Arc::new(knowledge::open(&settings, &engine).with_outside(outside));
        let mcp = Arc::new(Mcp::new(rag.clone(), tasks.clone()));
        let resolver = Arc::new(Resolver::new(tasks.clone()));
        let exchange = Arc::new(Exchange::new(resolver.clone(), metrics.clone(), 512));
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::empty(&settings)));
        let host: Arc<dyn Host> = Arc::new(ProcessHost {
            settings: settings.clone(),
            exchange: exchange.clone(),
            snapshot: snapshot.clone(),
            flywheel: flywheel.clone(),
            routers: routers.clone(),
            stores: Stores::new(Arc::new(LiveServices { exchange: exchange.clone(), snapshot: snapshot.clone() })),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            engine: engine.clone(),
            rag: rag.clone(),
        });
        let registries =
            Registries::new(exchange.clone(), snapshot.clone(), resolver.clone(), metrics.clone(), tasks.clone());
        let clusters = Arc::new(Clusters::new(metrics.clone()));
        let checks = Checks::new(snapshot.clone(), resolver.clone(), clusters, metrics.clone(), tasks.clone());
        let reloader = Arc::new(Reloader::new(
            settings.clone(),
            snapshot.clone(),
            host,
            checks,
            registries.directory.clone(),
            metrics.clone(),
            History::open(flywheel.as_ref()),
        ));
        // Watching begins before the first reading, so that no change falls between them.
        let watcher = reloader.clone().watch();
        reloader.first_load(config_dir_is_given)?;
        background.block_on(registries.first_answers(&reloader));
        tasks.spawn_until_stopped(registries.keep_up(reloader.clone()));
        if let Some(flywheel) = &flywheel {
            // The serving versions are in place before the first request.
            for router in routers.all() {
                background.block_on(follow::refresh(&router, flywheel));
            }
        }
        let challenges = Arc::new(Challenges::default());
        let access_log = access_log(&settings, &metrics)?;
        let spans = trace_export(&exchange, &snapshot, &tasks);
        let gateway = Gateway {
            snapshot: snapshot.clone(),
            resolver,
            exchange,
            dubbo: Dubbo::new(tasks.clone()),
            mcp: mcp.clone(),
            challenges: challenges.clone(),
            metrics: metrics.clone(),
            access_log,
            spans,
            tasks: tasks.clone(),
            mirrors: Room::default(),
            stopping: Arc::default(),
            at_work: TaskTracker::new(),
        };
        let failing_orders = Arc::<FailingOrders>::default();
        let parts = certificates::Parts {
            settings: settings.clone(),
            exchange: gateway.exchange.clone(),
            snapshot,
            challenges,
            metrics: metrics.clone(),
            failing: failing_orders.clone(),
        };
        certificates::start(parts, &reloader, &tasks);
        let on_hangup = {
            let _on_runtime = background.enter();
            control::reload_on_hangup(reloader.clone())?
        };
        tasks.spawn_until_stopped(on_hangup);
        let (stop, stopped) = watch::channel(false);
        let token = control::admin_token(&settings.data_dir);
        let health = admin::Health::default();
        let admin_state = admin::Admin {
            health: health.clone(),
            metrics: metrics.clone(),
            control: Arc::new(control::Control {
                reloader,
                routers: routers.clone(),
                flywheel: flywheel.clone(),
                engine: engine.clone(),
                failing_orders,
            }),
            rag,
            files: Arc::new(Files::new(settings.data_dir.join("files"))),
            mcp,
            token,
        };
        let (http, https, admin) = (sockets.http.address, sockets.https.address, sockets.admin_address);
        let admin_listener = {
            let _on_runtime = background.enter();
            tokio::net::TcpListener::from_std(sockets.admin)
                .map_err(|error| StartError::Io { what: "the admin socket cannot be used".into(), error })?
        };
        tasks.spawn_until_stopped(admin::serve(admin_listener, admin_state));
        let exchange = gateway.exchange.clone();
        let (probing, current) = (exchange.clone(), gateway.snapshot.clone());
        tasks.spawn_until_stopped(async move { probing.probe_tokens(&current).await });
        let pairs = sockets.http.into_sockets().into_iter().zip(sockets.https.into_sockets());
        let listeners = pairs.map(|(http, https)| Listeners { http, https }).collect();
        let workers = Workers::start(&gateway, listeners, &stopped)
            .map_err(|error| StartError::Io { what: "the proxy threads cannot be started".into(), error })?;
        let signals = background.block_on(async { control::StopSignals::listen() })?;
        if let Some(flywheel) = &flywheel {
            let triggers = Triggers {
                rows: settings.routing.retrain_rows,
                interval: Duration::from_secs(settings.routing.retrain_interval_secs),
            };
            tasks.spawn_until_stopped(follow::follow(routers, flywheel.clone(), engine, triggers, tasks.clone()));
            tasks.spawn_until_stopped(control::tend_flywheel(flywheel.clone(), settings.clone(), metrics.clone()));
        }
        health.set_ready(true);
        control::announce(http, https, admin, started.elapsed());
        let (at_work, stopping, access_log) = (gateway.at_work.clone(), gateway.stopping.clone(), gateway.access_log);
        Ok(Process {
            settings,
            metrics,
            tasks,
            exchange,
            flywheel,
            stop,
            health,
            workers,
            at_work,
            stopping,
            access_log,
            signals,
            _watcher: watcher,
        })
    }

    /// Waits for SIGTERM or SIGINT, then lets requests in flight finish.
    async fn serve_until_told(mut self) {
        let signal = self.signals.next().await;
        let drain = Duration::from_secs(self.settings.timeouts.drain_secs);
        tracing::info!(signal, drain_secs = drain.as_secs(), "Draining: no new connections, requests in flight finish");
        control::notify_stopping();
        self.health.set_ready(false);
        // The proxy may be gone already; then there is nothing to tell.
        let _ = self.stop.send(true);
        self.stopping.store(true, Ordering::Release);
        let mut deadline = Instant::now() + drain;
        let (metrics, at_work) = (self.metrics.clone(), self.at_work.clone());
        // Idle connections are told to close, too.
        let _ = tokio::time::timeout(LAST_BYTES, self.workers.end_of_accepting()).await;
        tokio::select! {
            () = quiet(&metrics, &at_work, deadline) => {}
            signal = self.signals.next() => {
                tracing::warn!(signal, "Told again: not waiting any longer");
                deadline = Instant::now();
            }
        }
        let (left, connections) = (metrics.requests_in_flight.get(), at_work.len());
        if left > 0 || connections > 0 {
            tracing::warn!(requests = left, connections, "The drain time is over; these are cut off");
        }
        // Clients of models learn it: by an error, or where the answer has begun by an error event.
        self.exchange.end();
        let last_bytes = Instant::now() + LAST_BYTES;
        while metrics.requests_in_flight.get() > 0 && Instant::now() < last_bytes {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // What they held back, a call beside them for one, goes on or ends.
        let workers = self.workers;
        let _ = tokio::task::spawn_blocking(move || drop(workers)).await;
        let rest = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        if tokio::time::timeout(rest, self.tasks.drain()).await.is_err() {
            tracing::warn!("Background work did not end in time and is dropped");
        }
        if let Some(flywheel) = self.flywheel {
            // Blocks for one flush; nothing that records runs any more.
            let _ = tokio::task::spawn_blocking(move || flywheel.close()).await;
        }
        let access_log = self.access_log;
        let _ = tokio::task::spawn_blocking(move || access_log.flush()).await;
        tracing::info!("Stopped");
    }
}

/// Waits until nobody has wanted anything for a moment, in which what is on its way arrives.
async fn quiet(metrics: &Metrics, at_work: &TaskTracker, deadline: Instant) {
    let mut last_busy = Instant::now();
    while last_busy.elapsed() < LAST_REQUESTS && Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
        if metrics.requests_in_flight.get() > 0 || !at_work.is_empty() {
            last_busy = Instant::now();
        }
    }
}

/// How often a drain looks whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Time for requests to arrive that were sent before their clients could know.
const LAST_REQUESTS: Duration = Duration::from_millis(100);

/// Time for the last bytes of finished requests to leave.
const LAST_BYTES: Duration = Duration::from_millis(250);

/// A store that cannot be opened costs learning and records, never traffic.
fn open_flywheel(settings: &Settings) -> Option<Flywheel> {
    let path: PathBuf = settings.data_dir.join("weirgate.db");
    let options = FlywheelOptions {
        flush_interval: Duration::from_millis(settings.flywheel.flush_interval_ms),
        queue_rows: settings.flywheel.queue_rows,
        redact: settings.flywheel.redact,
        ..FlywheelOptions::default()
    };
    match Flywheel::open(&path, options) {
        Ok(flywheel) => Some(flywheel),
        Err(error) => {
            tracing::error!(%error, "The flywheel is off: nothing is recorded and routers do not learn; traffic is served");
            None
        }
    }
}

/// Spans that may wait for the collector before further ones are dropped.
const SPAN_QUEUE: usize = 4096;

/// Starts the export of traces to the collector of the configuration at the time. It posts through the pool of model calls.
fn trace_export(exchange: &Arc<Exchange>, snapshot: &Arc<ArcSwap<Snapshot>>, tasks: &Tasks) -> SpanSink {
    let (sink, spans) = spans::channel(SPAN_QUEUE);
    let (exchange, snapshot, own) = (exchange.clone(), snapshot.clone(), tasks.clone());
    tasks.spawn(async move {
        let prepare = |batch: &[Span]| match &snapshot.load().tracer {
            Some(tracer) => tracer.call(batch),
            None => Err("no collector is configured any more".to_owned()),
        };
        let post = |call| {
            let (exchange, snapshot) = (exchange.clone(), snapshot.load_full());
            async move { exchange.http(&snapshot, call).await.map(|answer| answer.status()) }
        };
        spans::export(spans, own.stopped(), prepare, post).await;
    });
    sink
}

fn access_log(settings: &Settings, metrics: &Metrics) -> Result<AccessLog, StartError> {
    let lost = metrics.access_log_shed.clone();
    let (opened, place) = match &settings.telemetry.access_log {
        AccessLogTarget::Off => (Ok(AccessLog::off()), "off".to_owned()),
        AccessLogTarget::Stdout => (AccessLog::to_stdout(lost), "standard output".to_owned()),
        AccessLogTarget::File(path) => (AccessLog::to_file(path, lost), path.display().to_string()),
    };
    opened.map_err(|error| StartError::Io { what: format!("telemetry.access_log: {place} cannot be opened"), error })
}
