//! The flywheel: what was asked, what each model answered, at what price and score, and the routers learned from it.
//!
//! One SQLite file (`weirgate.db`) and two ways to it:
//!
//! - [`Flywheel`] is the request path's handle. It only queues; one thread writes in batches. It never blocks, never
//!   fails the caller, and counts what it had to drop. The exchange path, the feedback endpoint and the shadow caller use it.
//! - [`Store`] is everybody else's: statistics, training rows, export and import, retention, router versions. The admin
//!   API, the trainer and the command line use it, also from other processes while the gateway writes.
//!
//! This is the only module that names rusqlite. It must not know about HTTP, plugins or routers: features and artifacts
//! are opaque bytes here.
//!
//! The file also keeps the history of the configuration ([`ConfigSnapshot`]), which has nothing to do with the rest but the
//! file. Later tables (users, audit) are one more file in `schema/` and one more entry in `migrate::MIGRATIONS`.

mod config_history;
mod database;
mod error;
mod handle;
#[cfg(test)]
mod kill_tests;
mod migrate;
mod prune;
mod query;
mod queue;
mod record;
mod rows;
mod stats;
mod text_enum;
mod transfer;
mod versions;
mod writer;

#[cfg(test)]
mod testing;

pub use config_history::{ConfigSnapshot, Digest, FileChange, Files};
pub use database::Store;
pub use error::FlywheelError;
pub use handle::{Counters, Flywheel, Options, WriterState};
pub use prune::PruneReport;
pub use query::{Filter, TrainingAnswer, TrainingRow};
pub use record::{
    AnswerOutcome, AnswerRecord, DecisionRecord, ExchangeRecord, FeedbackRecord, JsonText, Mode, Rates, Role,
    ScoreRecord, ScoreSource, ScoreTarget, StoredExchange,
};
pub use stats::{GroupStats, Stats};
pub use transfer::{BadLine, Features, ImportReport};
pub use versions::{NewVersion, RouterVersion, VersionState};

/// The database's name inside the data folder.
pub const FILE_NAME: &str = "weirgate.db";

/// Unix time in milliseconds. A clock before 1970 counts as 1970.
fn now_ms() -> i64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
