//! Process control: signals, systemd, the admin token, upkeep of the store, and what the admin API may trigger.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::StartError;
use super::certificates::FailingOrders;
use super::reload::{Reloaded, Reloader};
use crate::admin::{ControlError, Controls};
use crate::base::secret::Secret;
use crate::config::Settings;
use crate::flywheel::{Filter, Flywheel, FlywheelError, WriterState};
use crate::infer::Engine;
use crate::learning::learner::{self, LearnError, learn};
use crate::learning::live::Routers;
use crate::telemetry::log::whole_ms;
use crate::telemetry::metrics::Metrics;

/// Prints where the process listens, for people and harnesses, and tells systemd.
pub fn announce(http: SocketAddr, https: SocketAddr, admin: SocketAddr, took: Duration) {
    let line = json!({"http": http.to_string(), "https": https.to_string(), "admin": admin.to_string()});
    // The one line on standard output; a closed pipe is the reader's choice.
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "listening {line}").and_then(|()| stdout.flush());
    tracing::info!(%http, %https, %admin, ready_ms = whole_ms(took), "Ready");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

pub fn notify_stopping() {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
}

/// The signals that ask to stop. Made before the process says that it is ready, so that none is missed.
pub struct StopSignals {
    term: Signal,
    int: Signal,
}

impl StopSignals {
    /// # Errors
    /// The process cannot receive signals.
    pub fn listen() -> Result<StopSignals, StartError> {
        Ok(StopSignals { term: receive(SignalKind::terminate())?, int: receive(SignalKind::interrupt())? })
    }

    /// Name of the next signal.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

fn receive(kind: SignalKind) -> Result<Signal, StartError> {
    signal(kind).map_err(|error| StartError::Io { what: "signals cannot be received".into(), error })
}

/// Reads the configuration folder anew on SIGHUP, as daemons do. From the call on the signal no longer ends the process.
///
/// # Errors
/// The process cannot receive signals.
pub fn reload_on_hangup(reloader: Arc<Reloader>) -> Result<impl Future<Output = ()>, StartError> {
    let mut hangup = receive(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            tracing::info!("Told to reload (SIGHUP)");
            let reloader = reloader.clone();
            let reloaded = tokio::task::spawn_blocking(move || reloader.reload()).await;
            if let Ok(Err(error)) = reloaded {
                tracing::error!(
                    error,
                    "The configuration folder cannot be read; the configuration before keeps serving"
                );
            }
        }
    })
}

/// The token that guards changes over the admin port: `admin.token` in the data folder, made on first start, readable by
/// the owner only.
///
/// `None` (logged) where it can be neither read nor made, on a full disk for one: traffic needs none.
pub fn admin_token(data_dir: &Path) -> Option<Secret> {
    let path = data_dir.join("admin.token");
    match read_or_make_token(&path) {
        Ok(token) => Some(token),
        Err(error) => {
            tracing::error!(
                path = %path.display(), %error,
                "The admin token can be neither read nor made; the admin API is closed until a start that can. Traffic is served"
            );
            None
        }
    }
}

fn read_or_make_token(path: &Path) -> std::io::Result<Secret> {
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::read_to_string(path) {
        Ok(token) if !token.trim().is_empty() => return Ok(Secret::new(token.trim())),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let token: String = std::iter::repeat_with(|| format!("{:016x}", rand::random::<u64>())).take(2).collect();
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{token}")?;
    Ok(Secret::new(token))
}

/// Publishes the writer's counters and applies retention.
pub async fn tend_flywheel(flywheel: Flywheel, settings: Arc<Settings>, metrics: Arc<Metrics>) {
    const EVERY: Duration = Duration::from_secs(1);
    const PRUNE_EVERY: u32 = 600;
    let mut before = flywheel.counters();
    for round in 0u32.. {
        tokio::time::sleep(EVERY).await;
        let now = flywheel.counters();
        metrics.flywheel_rows.inc_by(now.written - before.written);
        metrics.flywheel_shed.inc_by(now.shed - before.shed);
        metrics.flywheel_failed.inc_by(now.failed - before.failed);
        metrics.flywheel_unmatched.inc_by(now.unmatched - before.unmatched);
        metrics.flywheel_suspended.set(i64::from(matches!(now.state, WriterState::Suspended { .. })));
        before = now;
        if round % PRUNE_EVERY == 0 {
            let (store, keep) = (flywheel.store().clone(), settings.flywheel.clone());
            let age = (keep.retention_days > 0).then(|| Duration::from_secs(u64::from(keep.retention_days) * 86_400));
            let bytes = (keep.retention_max_mb > 0).then(|| keep.retention_max_mb.saturating_mul(1024 * 1024));
            let pruned = tokio::task::spawn_blocking(move || store.prune(age, bytes)).await;
            if let Ok(Err(error)) = pruned {
                tracing::warn!(%error, "Old flywheel rows could not be deleted; tried again later");
            }
        }
    }
}

/// What the admin API can see and do.
pub struct Control {
    pub reloader: Arc<Reloader>,
    pub routers: Arc<Routers>,
    pub flywheel: Option<Flywheel>,
    pub engine: Arc<Engine>,
    pub failing_orders: Arc<FailingOrders>,
}

impl Control {
    fn flywheel(&self) -> Result<&Flywheel, ControlError> {
        self.flywheel
            .as_ref()
            .ok_or_else(|| ControlError::Unavailable("the flywheel is not open; the start log says why".into()))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as map_err(failed)")]
fn failed(error: impl ToString) -> ControlError {
    ControlError::Failed(error.to_string())
}

fn store_error(error: FlywheelError) -> ControlError {
    match error {
        FlywheelError::NoSuchVersion(_) | FlywheelError::NothingToRollBack(_) => {
            ControlError::NotFound(error.to_string())
        }
        other => failed(other),
    }
}

impl Controls for Control {
    fn config_status(&self) -> Value {
        let (number, problems) = self.reloader.status();
        let failing = self.failing_orders.lock().clone();
        json!({
            "snapshot": number,
            "problems": problems,
            "registries": self.reloader.registries(),
            "failing_certificate_orders": failing,
        })
    }

    fn reload(&self) -> Result<Value, ControlError> {
        match self.reloader.reload().map_err(failed)? {
            Reloaded::Applied(changes) => Ok(json!({"result": "applied", "changes": changes.to_string()})),
            Reloaded::Unchanged => Ok(json!({"result": "unchanged"})),
            Reloaded::Refused(problems) => Ok(json!({"result": "refused", "problems": problems})),
        }
    }

    fn train(&self, router: &str, force: bool) -> Result<Value, ControlError> {
        let flywheel = self.flywheel()?;
        flywheel.flush().map_err(failed)?;
        let live = self.routers.get(router);
        let setup = live.setup().ok_or_else(|| {
            ControlError::NotFound(format!("no semantic-router plugin names the router \"{router}\""))
        })?;
        let _one = live.one_training();
        let learned =
            learn(flywheel.store(), router, &setup, Some(&self.engine), force, &mut |_| {}).map_err(failed)?;
        // Also where this version was not promoted: the one it lost to may have come a moment ago. If that cannot be read, the
        // training has not failed for it.
        let swapped = self.swap(router);
        if learned.is_promoted {
            swapped?;
        }
        Ok(json!({
            "version": learned.version,
            "promoted": learned.is_promoted,
            "n_rows": learned.n_rows,
            "n_held_out": learned.n_held_out,
            "verdict": learned.verdict,
            "report": learned.report,
        }))
    }

    fn versions(&self, router: &str) -> Result<Value, ControlError> {
        self.flywheel()?.store().list_versions(Some(router)).map(|versions| json!(versions)).map_err(store_error)
    }

    fn promote(&self, router: &str, version: i64) -> Result<Value, ControlError> {
        let promoted = learner::promote(self.flywheel()?.store(), version).map_err(|error| match error {
            LearnError::Store(error) => store_error(error),
            other => failed(other),
        })?;
        self.swap(router)?;
        Ok(json!(promoted))
    }

    fn rollback(&self, router: &str) -> Result<Value, ControlError> {
        let back = learner::rollback(self.flywheel()?.store(), router).map_err(store_error)?;
        self.swap(router)?;
        Ok(back.map_or_else(|| json!({"router": router, "id": null}), |version| json!(version)))
    }

    fn flywheel_stats(&self) -> Result<Value, ControlError> {
        let flywheel = self.flywheel()?;
        let stats = flywheel.store().stats(&Filter::default()).map_err(store_error)?;
        Ok(json!({"stats": stats, "writer": flywheel.counters()}))
    }
}

impl Control {
    /// Takes the version over at once instead of at the next poll.
    fn swap(&self, router: &str) -> Result<(), ControlError> {
        let live = self.routers.get(router);
        let serving = crate::learning::learner::serving_router(self.flywheel()?.store(), router).map_err(failed)?;
        live.swap(serving.map(|(id, router)| crate::learning::live::Serving { id, router }));
        Ok(())
    }
}
