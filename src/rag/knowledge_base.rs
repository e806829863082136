//! Knowledge bases by name, with the models they are written and searched with.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use super::RagError;
pub use super::access::{Access, Caller, NewAccess};
use super::chunk::ChunkSettings;
use super::correct::calibrate::Calibration;
use super::embed::Embed;
use super::ingest::{Exclusive, exclusive};
use super::outside::Outside;
use super::ports::Complete;
use super::retrieve::lexicon::LexiconCache;
use super::retrieve::rerank::Reranker;
use super::store::{Layout, Store, Table, check_name};
use crate::base::shared::Shared;

/// Where knowledge bases lie and what serves them. One per process.
pub struct Rag {
    place: Place,
    /// Opened when first needed: a gateway without knowledge bases has neither the folder nor what the library keeps in memory.
    store: OnceCell<Store>,
    models: Models,
    outside: Outside,
    /// Folder for the files that keep processes apart; `None` where the tables lie in object storage.
    lock_dir: Option<PathBuf>,
    open: Mutex<HashMap<String, Arc<KnowledgeBase>>>,
    /// Held while a base is made or deleted.
    changing: Shared<tokio::sync::Mutex<()>>,
}

/// The models of the process. Without an embedding model passages are found by their words only.
#[derive(Clone, Default)]
pub struct Models {
    pub embed: Option<Arc<dyn Embed>>,
    pub rerank: Option<Reranker>,
}

/// Where the tables are.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// A folder, or the URL of object storage.
    pub uri: String,
    /// What the object storage wants to know (endpoint, region, keys).
    pub options: HashMap<String, String>,
}

/// What may be chosen when a knowledge base is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBase {
    /// Characters in a chunk, and how many of them the next one repeats.
    pub chunk_size: Option<usize>,
    pub chunk_overlap: Option<usize>,
    /// The embedding model: that of the process, or `none` for a base that is searched by words only.
    pub model: Option<String>,
    /// As in [`Access`].
    #[serde(default)]
    pub consumers: Vec<String>,
    pub tenant: Option<String>,
    /// As in [`BaseSettings`].
    pub title: Option<String>,
}

/// What is kept with a knowledge base beside its rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BaseSettings {
    #[serde(flatten)]
    pub access: Access,
    /// What people call it, where that is no name for a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<i64>,
    /// By name of the evaluator, because thresholds of one mean nothing to another.
    #[serde(default)]
    pub calibrations: BTreeMap<String, Calibration>,
}

/// One knowledge base.
pub struct KnowledgeBase {
    pub(super) table: Table,
    pub(super) models: Models,
    pub(super) lexicon: LexiconCache,
    pub(super) outside: Outside,
    pub(super) lock_file: Option<PathBuf>,
    /// Its table's; `None` in object storage.
    folder: Option<PathBuf>,
    /// One ingest at a time.
    pub(super) writing: tokio::sync::Mutex<()>,
    birth: Birth,
    /// Since the table was last put in order.
    pub(super) n_commits: AtomicU64,
}

impl Rag {
    /// Reads and makes nothing yet.
    pub fn new(place: Place, models: Models) -> Rag {
        let lock_dir = (!place.uri.contains("://")).then(|| PathBuf::from(&place.uri));
        let (store, outside) = (OnceCell::new(), Outside::default());
        Rag { place, store, models, outside, lock_dir, open: Mutex::default(), changing: Shared::new() }
    }

    /// With a language model and the web, as far as there are any.
    #[must_use]
    pub fn with_outside(mut self, outside: Outside) -> Rag {
        self.outside = outside;
        self
    }

    async fn store(&self) -> Result<&Store, RagError> {
        let open = async || {
            if let Some(dir) = &self.lock_dir {
                let failed =
                    |error: std::io::Error| RagError::Store { place: self.place.uri.clone(), error: error.to_string() };
                std::fs::create_dir_all(dir).map_err(failed)?;
            }
            Store::open(&self.place.uri, &self.place.options).await
        };
        self.store.get_or_try_init(open).await
    }

    /// Makes a knowledge base.
    ///
    /// # Errors
    /// The name is taken or no name, the settings make no sense, or the place cannot be written.
    pub async fn create(&self, name: &str, new: &NewBase) -> Result<Arc<KnowledgeBase>, RagError> {
        let default = ChunkSettings::default();
        let size = new.chunk_size.unwrap_or(default.size);
        let overlap = new.chunk_overlap.unwrap_or(default.overlap.min(size / 4));
        if !(50..=20_000).contains(&size) || overlap > size / 2 {
            return Err(RagError::Invalid(format!(
                "chunk_size {size} and chunk_overlap {overlap}: a chunk has 50 to 20,000 characters, and the overlap is at most half of it"
            )));
        }
        let (model, dimensions) = self.model_for(new.model.as_deref()).await?;
        let layout = Layout { model, dimensions, chunk_size: size, chunk_overlap: overlap };
        let access = Access { consumers: new.consumers.clone(), tenant: new.tenant.clone() };
        let (title, created_at) = (new.title.clone(), Some(now_ms()));
        let settings = written(&BaseSettings { access, title, created_at, ..BaseSettings::default() })?;
        let store = self.store().await?;
        let change = self.changing.get(name.to_owned(), Default::default);
        let _alone = change.lock().await;
        let _lock = self.lock(name)?;
        let table = store.create(name, &layout, &settings).await?;
        Ok(self.remember(store, name, table))
    }

    async fn model_for(&self, asked_for: Option<&str>) -> Result<(String, usize), RagError> {
        match (asked_for, &self.models.embed) {
            (Some(NO_MODEL), _) | (None, None) => Ok((NO_MODEL.to_owned(), 0)),
            (asked_for, Some(embed)) if asked_for.is_none_or(|name| name == embed.model()) => {
                Ok((embed.model().to_owned(), embed.dimensions().await?))
            }
            (asked_for, own) => {
                let asked_for = asked_for.unwrap_or(NO_MODEL);
                let own = own.as_ref().map_or(NO_MODEL, |embed| embed.model());
                Err(RagError::Invalid(format!(
                    "model \"{asked_for}\": this process has the embedding model \"{own}\"; leave it out, or write \"none\" for a base that is searched by words alone"
                )))
            }
        }
    }

    /// The knowledge base of that name.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub async fn base(&self, name: &str) -> Result<Arc<KnowledgeBase>, RagError> {
        let store = self.store().await?;
        let known = self.open.lock().get(name).cloned();
        // Another process may have removed it meanwhile, or made another one of that name.
        if let Some(base) = known.filter(|base| base.is_there()) {
            return Ok(base);
        }
        let table = store.table(name).await?;
        Ok(self.remember(store, name, table))
    }

    /// The knowledge base of that name, if this caller may see it. One that the caller may not see does not exist, and names of
    /// other people's are not told.
    ///
    /// # Errors
    /// There is none for the caller, or it cannot be read.
    pub async fn admitted(&self, name: &str, caller: &Caller) -> Result<Arc<KnowledgeBase>, RagError> {
        let hidden = || RagError::UnknownBase { name: name.to_owned(), known: UNTOLD.to_owned() };
        let base = match (self.base(name).await, caller) {
            (Err(RagError::UnknownBase { .. }), Caller::Consumer { .. }) => return Err(hidden()),
            (found, _) => found?,
        };
        if base.settings().await?.access.admits(caller) { Ok(base) } else { Err(hidden()) }
    }

    /// The knowledge base of that name, made if there is none.
    ///
    /// # Errors
    /// As `base` and `create`.
    pub async fn base_or_new(&self, name: &str) -> Result<Arc<KnowledgeBase>, RagError> {
        match self.base(name).await {
            Err(RagError::UnknownBase { .. }) => match self.create(name, &NewBase::default()).await {
                // By another request, meanwhile.
                Err(RagError::Exists(_)) => self.base(name).await,
                made => made,
            },
            found => found,
        }
    }

    /// # Errors
    /// The place cannot be read.
    pub async fn names(&self) -> Result<Vec<String>, RagError> {
        self.store().await?.names().await
    }

    /// Names of those that this caller may see. One that cannot be read is left out for a consumer, and told in the log.
    ///
    /// # Errors
    /// The place cannot be read.
    pub async fn names_for(&self, caller: &Caller) -> Result<Vec<String>, RagError> {
        let names = self.names().await?;
        if *caller == Caller::Operator {
            return Ok(names);
        }
        let mut seen = Vec::with_capacity(names.len());
        for name in names {
            match self.admitted(&name, caller).await {
                Ok(_) => seen.push(name),
                Err(RagError::UnknownBase { .. }) => {}
                Err(error) => tracing::warn!(knowledge_base = name, %error, "A knowledge base cannot be read"),
            }
        }
        Ok(seen)
    }

    /// Deletes a knowledge base with everything in it.
    ///
    /// # Errors
    /// There is none, or the place cannot be written.
    pub async fn remove(&self, name: &str) -> Result<(), RagError> {
        let store = self.store().await?;
        check_name(name)?;
        let change = self.changing.get(name.to_owned(), Default::default);
        let _alone = change.lock().await;
        // An ingest that is under way ends first. One that cannot be read has none.
        let base = match self.base(name).await {
            Err(error @ RagError::UnknownBase { .. }) => return Err(error),
            found => found.ok(),
        };
        let _writing = match &base {
            Some(base) => Some(base.writing.lock().await),
            None => None,
        };
        let _lock = self.lock(name)?;
        store.remove(name).await?;
        self.open.lock().remove(name);
        Ok(())
    }

    /// Keeps other processes from the base; `None` where nothing can.
    fn lock(&self, name: &str) -> Result<Option<Exclusive>, RagError> {
        check_name(name)?;
        self.lock_file(name).map(|path| exclusive(&path, name)).transpose()
    }

    fn lock_file(&self, name: &str) -> Option<PathBuf> {
        self.lock_dir.as_ref().map(|dir| dir.join(format!(".{name}.lock")))
    }

    fn remember(&self, store: &Store, name: &str, table: Table) -> Arc<KnowledgeBase> {
        let base = Arc::new(KnowledgeBase {
            birth: birth(store.folder(name).as_deref()),
            folder: store.folder(name),
            n_commits: AtomicU64::new(0),
            table,
            models: self.models.clone(),
            lexicon: LexiconCache::default(),
            outside: self.outside.clone(),
            lock_file: self.lock_file(name),
            writing: tokio::sync::Mutex::default(),
        });
        let mut open = self.open.lock();
        // Whoever opened the same one a moment ago shares it.
        let known = open.get(name).filter(|known| known.birth == base.birth && base.birth.is_some()).cloned();
        let base = known.unwrap_or(base);
        open.insert(name.to_owned(), base.clone());
        base
    }
}

/// By which a table is told from another one of its name: its folder's number and time. `None` in object storage.
type Birth = Option<(u64, Option<SystemTime>)>;

fn birth(folder: Option<&Path>) -> Birth {
    let metadata = std::fs::metadata(folder?).ok();
    Some(metadata.map_or((0, None), |metadata| (metadata.ino(), metadata.created().ok())))
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn written(settings: &BaseSettings) -> Result<String, RagError> {
    serde_json::to_string(settings).map_err(|error| RagError::Failed(error.to_string()))
}

/// In the place of the list of those there are.
const UNTOLD: &str = "what you may see: ask GET knowledge-bases";

/// Recorded in the place of a model's name where there was none.
const NO_MODEL: &str = "none";

impl KnowledgeBase {
    /// Whether the table is still the one that was opened: it may have been deleted, and another one made of that name.
    fn is_there(&self) -> bool {
        self.birth == birth(self.folder.as_deref())
    }

    /// Before anything is written to it, under its lock.
    ///
    /// # Errors
    /// It was deleted meanwhile.
    pub(super) fn check_there(&self) -> Result<(), RagError> {
        let gone = || RagError::UnknownBase { name: self.table.name().to_owned(), known: UNTOLD.to_owned() };
        if self.is_there() { Ok(()) } else { Err(gone()) }
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Whether it is searched by words alone although there is a model to make vectors with: it was made before that, or is meant so.
    pub fn forgoes_vectors(&self) -> bool {
        self.table.layout().dimensions == 0 && self.models.embed.is_some()
    }

    /// The language model, where one is configured.
    pub fn model(&self) -> Option<&dyn Complete> {
        self.outside.model.as_deref()
    }

    /// # Errors
    /// The table cannot be read, or its settings: to go on without them would open it to everybody.
    pub async fn settings(&self) -> Result<BaseSettings, RagError> {
        let Some(text) = self.table.settings().await? else { return Ok(BaseSettings::default()) };
        let unreadable =
            |error| RagError::Failed(format!("the settings of {} cannot be read: {error}", self.table.name()));
        serde_json::from_str(&text).map_err(unreadable)
    }

    /// # Errors
    /// The table cannot be written.
    pub async fn set_settings(&self, settings: &BaseSettings) -> Result<(), RagError> {
        self.table.set_settings(written(settings)?).await
    }

    /// # Errors
    /// As for [`Self::settings`] and [`Self::set_settings`].
    pub async fn change_access(&self, new: NewAccess) -> Result<Access, RagError> {
        let _alone = self.writing.lock().await;
        self.check_there()?;
        let mut settings = self.settings().await?;
        let Access { consumers, tenant } = &mut settings.access;
        *consumers = new.consumers.unwrap_or_else(|| std::mem::take(consumers));
        *tenant = new.tenant.unwrap_or_else(|| tenant.take());
        self.set_settings(&settings).await?;
        Ok(settings.access)
    }

    /// The model that made the vectors here; `None` where there are none.
    ///
    /// # Errors
    /// The process has another model, or none.
    pub(super) fn embedding_model(&self) -> Result<Option<&Arc<dyn Embed>>, RagError> {
        let layout = self.table.layout();
        if layout.dimensions == 0 {
            return Ok(None);
        }
        let found = self.models.embed.as_ref();
        // Vectors of another length are refused by the table.
        if found.is_some_and(|embed| embed.model() == layout.model) {
            return Ok(found);
        }
        Err(RagError::Model {
            base: self.table.name().to_owned(),
            expected: layout.model.clone(),
            found: found.map_or(NO_MODEL, |embed| embed.model()).to_owned(),
        })
    }
}
