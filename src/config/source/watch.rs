//! Notices that the configuration folder changed. It says only *that*: the reader reads the whole folder, so no order or
//! loss of single events can leave half a change behind.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::SourceError;
use super::scan::{file_name, is_yaml};

/// Quiet time after the last event of a burst before the change is reported (as in Higress' API server).
const QUIET: Duration = Duration::from_millis(100);
/// The same while one file alone has changed, and is whole: its events come together.
const SINGLE_QUIET: Duration = Duration::from_millis(20);
/// A folder that never rests is reported this often.
const PATIENCE: Duration = Duration::from_secs(1);
/// And one with a file that somebody keeps open: half an object may be a guard without its condition.
const WRITERS_PATIENCE: Duration = Duration::from_secs(5);

/// Watches until dropped.
#[derive(Debug)]
pub struct Watcher {
    messages: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Message {
    Changed(Change),
    Stop,
}

/// Something below the folder changed.
#[derive(Debug)]
struct Change {
    /// Or the folder itself came, went or was replaced.
    root: bool,
    file: PathBuf,
    stage: Stage,
}

/// What is to be expected of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// More: it was written to, and not closed yet.
    Written,
    /// Nothing: it was renamed, removed, or closed by its writer.
    Whole,
    Unknown,
}

/// Changes that are reported as one.
struct Burst {
    last: Change,
    is_single: bool,
    /// Files that are being written.
    open: HashSet<PathBuf>,
}

impl Burst {
    fn new(first: Change) -> Burst {
        let mut burst = Burst { is_single: !first.root, open: HashSet::new(), last: first };
        burst.note_stage();
        burst
    }

    fn add(&mut self, change: Change) {
        self.is_single &= !change.root && change.file == self.last.file;
        self.last = Change { root: change.root || self.last.root, ..change };
        self.note_stage();
    }

    fn note_stage(&mut self) {
        if self.last.root {
            // Of files of a folder that went nothing more is heard.
            self.open.clear();
        }
        match self.last.stage {
            Stage::Written => drop(self.open.insert(self.last.file.clone())),
            Stage::Whole => drop(self.open.remove(&self.last.file)),
            Stage::Unknown => {}
        }
    }

    /// How long another is waited for, when the first was so long ago; `None` if it is time to report.
    fn wait(&self, age: Duration) -> Option<Duration> {
        let (limit, quiet) = match (self.open.is_empty(), self.is_single && self.last.stage == Stage::Whole) {
            (false, _) => (WRITERS_PATIENCE, WRITERS_PATIENCE),
            (true, true) => (PATIENCE, SINGLE_QUIET),
            (true, false) => (PATIENCE, QUIET),
        };
        let left = limit.saturating_sub(age);
        (!left.is_zero()).then_some(quiet.min(left))
    }
}

impl Watcher {
    /// Calls `on_change` from a thread of its own after each burst of changes in `root`, sub-folders included. A folder
    /// that is yet to come is waited for. Start this before reading the folder, or a change in between is missed.
    ///
    /// # Errors
    /// [`SourceError::Unwatchable`] if neither the folder nor its parent exists, or the system has no watches left
    /// (`fs.inotify.max_user_watches`).
    pub fn start(root: &Path, on_change: impl Fn() + Send + 'static) -> Result<Self, SourceError> {
        let unwatchable = |error| SourceError::Unwatchable { path: root.to_owned(), error };
        let root = std::path::absolute(root).map_err(|error| unwatchable(notify::Error::io(error)))?;
        let (messages, inbox) = channel();
        let watch = Watch::start(root, messages.clone()).map_err(unwatchable)?;
        let thread = std::thread::Builder::new()
            .name("config-watch".to_owned())
            .spawn(move || watch.run(&inbox, on_change))
            .map_err(|error| unwatchable(notify::Error::io(error)))?;
        Ok(Self { messages, thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Either fails only if the thread is gone already.
        let _ = self.messages.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watch {
    watcher: RecommendedWatcher,
    root: PathBuf,
}

impl Watch {
    fn start(root: PathBuf, messages: Sender<Message>) -> notify::Result<Self> {
        let own = root.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if let Some(message) = message_for(&own, event) {
                // The receiver is gone only while stopping.
                let _ = messages.send(message);
            }
        })?;
        // That the folder comes, or is replaced as a whole (`mv new conf`, a swapped link), is visible only from above.
        // One of the two watches is enough to be of use.
        let from_above = root.parent().map(|parent| watcher.watch(parent, RecursiveMode::NonRecursive));
        let inside = watcher.watch(&root, RecursiveMode::Recursive);
        match (inside, from_above) {
            (Err(error), None | Some(Err(_))) => Err(error),
            (Err(error), Some(Ok(()))) if root.exists() => Err(error),
            _ => Ok(Self { watcher, root }),
        }
    }

    fn run(mut self, inbox: &Receiver<Message>, on_change: impl Fn()) {
        loop {
            let Ok(Message::Changed(first)) = inbox.recv() else { return };
            let mut burst = Burst::new(first);
            let began = Instant::now();
            while let Some(wait) = burst.wait(began.elapsed()) {
                match inbox.recv_timeout(wait) {
                    Ok(Message::Changed(change)) => burst.add(change),
                    Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => break,
                }
            }
            if burst.last.root {
                self.watch_again();
            }
            on_change();
        }
    }

    /// The watch stays on the old folder when another takes its name.
    fn watch_again(&mut self) {
        // Fails if the old folder was deleted, which ended its watch.
        let _ = self.watcher.unwatch(&self.root);
        if let Err(error) = self.watcher.watch(&self.root, RecursiveMode::Recursive) {
            tracing::warn!(folder = %self.root.display(), %error, "the configuration folder is gone; waiting for it to come back");
        }
    }
}

fn message_for(root: &Path, event: notify::Result<Event>) -> Option<Message> {
    let event = match event {
        Ok(event) => event,
        Err(error) => {
            tracing::warn!(folder = %root.display(), %error, "watching the configuration folder failed once");
            return Some(Message::Changed(Change { root: true, file: root.to_owned(), stage: Stage::Unknown }));
        }
    };
    // Reading the files ourselves must not look like a change.
    let is_access = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
    let is_unfinished = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "tmp");
    let is_elsewhere = |path: &PathBuf| !path.starts_with(root);
    let file = event.paths.iter().find(|path| !is_unfinished(path) && !is_elsewhere(path));
    if is_access || (file.is_none() && !event.need_rescan()) {
        return None;
    }
    let is_root = event.need_rescan() || event.paths.iter().any(|path| path == root);
    // Of others, an editor's swap file for one, nobody reads half.
    let is_read = file.is_some_and(|file| is_yaml(file) && !file_name(file).starts_with('.'));
    let stage = match event.kind {
        EventKind::Modify(ModifyKind::Data(_)) if is_read => Stage::Written,
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Access(_) | EventKind::Remove(_) => Stage::Whole,
        _ => Stage::Unknown,
    };
    let file = file.map_or(root, |file| file).to_owned();
    Some(Message::Changed(Change { root: is_root, file, stage }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Generous: it bounds a failing test, a passing one never waits for it.
    const SOON: Duration = Duration::from_secs(20);

    struct Folder {
        parent: tempfile::TempDir,
        changes: Receiver<()>,
        _watcher: Watcher,
    }

    impl Folder {
        fn new() -> Self {
            let parent = tempfile::tempdir().unwrap();
            let root = parent.path().join("conf");
            fs::create_dir_all(root.join("ingresses")).unwrap();
            let (sender, changes) = channel();
            // The test may have ended when a change is reported.
            let watcher = Watcher::start(&root, move || sender.send(()).unwrap_or_default()).unwrap();
            Self { parent, changes, _watcher: watcher }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.parent.path().join("conf").join(name)
        }

        #[track_caller]
        fn expect_change(&self) {
            self.changes.recv_timeout(SOON).expect("the change is reported");
        }
    }

    #[test]
    fn write_rename_and_delete_are_reported() {
        let folder = Folder::new();
        fs::write(folder.path("ingresses/a.yaml"), "a: 1").unwrap();
        folder.expect_change();
        fs::write(folder.path("ingresses/a.yaml.tmp"), "a: 2").unwrap();
        fs::rename(folder.path("ingresses/a.yaml.tmp"), folder.path("ingresses/a.yaml")).unwrap();
        folder.expect_change();
        fs::remove_file(folder.path("ingresses/a.yaml")).unwrap();
        folder.expect_change();
    }

    #[test]
    fn new_sub_folders_are_watched() {
        let folder = Folder::new();
        fs::create_dir(folder.path("wasmplugins")).unwrap();
        folder.expect_change();
        fs::write(folder.path("wasmplugins/a.yaml"), "a: 1").unwrap();
        folder.expect_change();
    }

    #[test]
    fn replaced_folder_is_watched() {
        let folder = Folder::new();
        let (root, old) = (folder.path(""), folder.parent.path().join("old"));
        fs::rename(&root, &old).unwrap();
        folder.expect_change();
        fs::create_dir_all(folder.path("ingresses")).unwrap();
        folder.expect_change();
        fs::write(folder.path("ingresses/a.yaml"), "a: 1").unwrap();
        folder.expect_change();
        fs::remove_dir_all(&root).unwrap();
        folder.expect_change();
    }

    #[test]
    fn a_burst_is_one_change() {
        let root = tempfile::tempdir().unwrap();
        let watch = Watch::start(root.path().to_owned(), channel().0).unwrap();
        let (messages, inbox) = channel();
        for n in 0..200 {
            let change = Change { root: false, file: PathBuf::from(format!("{n}.yaml")), stage: Stage::Whole };
            messages.send(Message::Changed(change)).unwrap();
        }
        let changes = std::cell::Cell::new(0);
        watch.run(&inbox, || {
            changes.set(changes.get() + 1);
            messages.send(Message::Stop).unwrap();
        });
        assert_eq!(changes.get(), 1);
    }

    #[test]
    fn one_whole_file_is_waited_for_less_than_several() {
        let change = |file: &str, stage| Change { root: false, file: PathBuf::from(file), stage };
        let at_once = |burst: &Burst| burst.wait(Duration::ZERO).unwrap();
        let mut burst = Burst::new(change("a", Stage::Unknown));
        assert_eq!(at_once(&burst), QUIET, "made, or changed otherwise");
        burst.add(change("a", Stage::Whole));
        assert_eq!(at_once(&burst), SINGLE_QUIET);
        burst.add(change("b", Stage::Whole));
        burst.add(change("b", Stage::Whole));
        assert_eq!(at_once(&burst), QUIET, "two files may belong together");
        assert_eq!((burst.wait(PATIENCE - SINGLE_QUIET), burst.wait(PATIENCE)), (Some(SINGLE_QUIET), None));
        let mut burst = Burst::new(change("a", Stage::Whole));
        burst.add(Change { root: true, ..change("/", Stage::Whole) });
        burst.add(change("a", Stage::Whole));
        assert!(burst.last.root && at_once(&burst) == QUIET);
    }

    /// Regression: half an object went live, a guard without its condition, when its writer paused for longer than a burst lasts.
    #[test]
    fn files_that_are_being_written_are_waited_for() {
        let change = |file: &str, stage| Change { root: false, file: PathBuf::from(file), stage };
        let mut burst = Burst::new(change("a", Stage::Written));
        burst.add(change("b", Stage::Whole));
        assert_eq!(burst.wait(PATIENCE), Some(WRITERS_PATIENCE - PATIENCE), "a is open still");
        assert_eq!(burst.wait(WRITERS_PATIENCE), None, "perhaps its writer never closes it");
        burst.add(change("a", Stage::Whole));
        assert_eq!(burst.wait(Duration::ZERO), Some(QUIET));
        let data = EventKind::Modify(ModifyKind::Data(notify::event::DataChange::Any));
        let written = message_for(Path::new("/conf"), Ok(Event::new(data).add_path("/conf/ingresses/a.yaml".into())));
        assert!(matches!(written, Some(Message::Changed(Change { stage: Stage::Written, .. }))));
        // An editor keeps its swap file open, and tar touches folders.
        for path in ["/conf/ingresses/.a.yaml.swp", "/conf/ingresses/.a.yaml", "/conf/ingresses", "/conf/notes.txt"] {
            let touched = message_for(Path::new("/conf"), Ok(Event::new(data).add_path(path.into())));
            assert!(matches!(touched, Some(Message::Changed(Change { stage: Stage::Unknown, .. }))), "{path}");
        }
    }

    #[test]
    fn a_folder_may_come_later() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("conf");
        let (sender, changes) = channel();
        let watcher = Watcher::start(&root, move || sender.send(()).unwrap_or_default()).unwrap();
        fs::create_dir(&root).unwrap();
        changes.recv_timeout(SOON).unwrap();
        fs::write(root.join("a.yaml"), "a: 1").unwrap();
        changes.recv_timeout(SOON).unwrap();
        drop(watcher);
    }

    #[test]
    fn reading_and_unfinished_files_are_no_change() {
        let root = Path::new("/conf");
        let changed =
            |kind, path: &str| message_for(root, Ok(Event::new(kind).add_path(PathBuf::from(path)))).is_some();
        let create = EventKind::Create(notify::event::CreateKind::File);
        assert!(changed(create, "/conf/ingresses/a.yaml"));
        assert!(!changed(create, "/conf/ingresses/a.yaml.tmp"));
        assert!(!changed(create, "/other"));
        assert!(!changed(EventKind::Access(AccessKind::Open(AccessMode::Any)), "/conf/ingresses/a.yaml"));
        assert!(changed(EventKind::Access(AccessKind::Close(AccessMode::Write)), "/conf/ingresses/a.yaml"));
    }

    #[test]
    fn missing_folder_is_an_error() {
        let error = Watcher::start(Path::new("/nonexistent/folder"), || {}).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/folder"), "{error}");
    }
}
