//! Reads the folder into [`RawObject`]s. Called at start, by `validate`, and after every change; a file that did not change
//! is not read again, one whose bytes did not change is not parsed again.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{FileContent, Listing, RawObject, SourceError};
use crate::config::model::ObjectRef;
use crate::config::problem::{Problem, Severity};
use crate::config::suggest::did_you_mean;
use crate::config::{SYSTEM_NAMESPACE, yaml};

/// Folder name, kind, and whether the kind lives in a namespace (Higress standalone, `registry/file_rest.go` and the
/// resources its API server installs).
const KINDS: &[(&str, &str, bool)] = &[
    ("configmaps", "ConfigMap", true),
    ("customresourcedefinitions", "CustomResourceDefinition", false),
    ("destinationrules", "DestinationRule", true),
    ("endpoints", "Endpoints", true),
    ("endpointslices", "EndpointSlice", true),
    ("envoyfilters", "EnvoyFilter", true),
    ("gatewayclasses", "GatewayClass", false),
    ("gateways", "Gateway", true),
    ("grpcroutes", "GRPCRoute", true),
    ("http2rpcs", "Http2Rpc", true),
    ("httproutes", "HTTPRoute", true),
    ("ingressclasses", "IngressClass", false),
    ("ingresses", "Ingress", true),
    ("mcpbridges", "McpBridge", true),
    ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", false),
    ("namespaces", "Namespace", false),
    ("nodes", "Node", false),
    ("pods", "Pod", true),
    ("referencegrants", "ReferenceGrant", true),
    ("secrets", "Secret", true),
    ("services", "Service", true),
    ("subjectaccessreviews", "SubjectAccessReview", false),
    ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration", false),
    ("wasmplugins", "WasmPlugin", true),
];

/// Kubernetes itself takes objects up to 1.5 MB; beyond this the file is no configuration object.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// Sub-folders below a kind's folder. A link that leads back up ends here.
const MAX_DEPTH: usize = 8;

/// A configuration folder and what was last read from it.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    parsed: HashMap<PathBuf, Parsed>,
}

/// What came of one file.
#[derive(Debug)]
struct Parsed {
    /// What tells the file from a changed one; `None` when that would be a guess.
    stamp: Option<Stamp>,
    digest: [u8; 32],
    bytes: Arc<[u8]>,
    object: Option<RawObject>,
    problems: Vec<Problem>,
}

impl Folder {
    /// Reads nothing yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), parsed: HashMap::new() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes of a file (relative to the folder) as they were read last.
    pub fn content(&self, file: &Path) -> Option<&[u8]> {
        self.parsed.get(file).map(|parsed| &*parsed.bytes)
    }

    /// Every file of a known kind with its bytes, whether it is an object or not.
    pub fn contents(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.parsed.iter().map(|(file, parsed)| (file.as_path(), &*parsed.bytes))
    }

    /// Reads every object. Faults of single files are in [`Listing::problems`].
    ///
    /// # Errors
    /// [`SourceError::Unreadable`] if the folder itself cannot be listed.
    pub fn read(&mut self) -> Result<Listing, SourceError> {
        self.read_at(SystemTime::now())
    }

    fn read_at(&mut self, started: SystemTime) -> Result<Listing, SourceError> {
        let unreadable = |error| SourceError::Unreadable { path: self.root.clone(), error };
        let entries = sorted_entries(&self.root).map_err(unreadable)?;
        let before = std::mem::take(&mut self.parsed);
        let mut scan = Scan {
            root: &self.root,
            started,
            now: HashMap::with_capacity(before.len()),
            before,
            listing: Listing::default(),
        };
        for entry in entries {
            scan.top_entry(&entry);
        }
        let Scan { now, mut listing, .. } = scan;
        self.parsed = now;
        reject_doubles(&mut listing);
        Ok(listing)
    }
}

/// The files of a folder as Higress standalone reads them, which knows one namespace: relative name and content. What names
/// another is written anew, everything else stays as it is.
///
/// # Errors
/// The folder cannot be listed.
pub fn flattened(folder: &mut Folder) -> Result<Vec<FileContent>, SourceError> {
    folder.read()?;
    let is_elsewhere = |object: &RawObject| !matches!(object.origin.namespace.as_str(), "" | SYSTEM_NAMESPACE);
    let files = folder.parsed.iter().map(|(file, parsed)| {
        let moved = parsed.object.as_ref().filter(|object| is_elsewhere(object)).and_then(|object| {
            let mut value = Value::clone(&object.value);
            value["metadata"]["namespace"] = Value::from(SYSTEM_NAMESPACE);
            yaml::print(&value).ok().map(String::into_bytes)
        });
        (file.clone(), Some(moved.unwrap_or_else(|| parsed.bytes.to_vec())))
    });
    let mut files: Vec<_> = files.collect();
    files.sort_unstable();
    Ok(files)
}

/// One pass over the folder.
struct Scan<'a> {
    root: &'a Path,
    started: SystemTime,
    /// What the pass before found and this one has not come to.
    before: HashMap<PathBuf, Parsed>,
    now: HashMap<PathBuf, Parsed>,
    listing: Listing,
}

impl Scan<'_> {
    fn top_entry(&mut self, entry: &Entry) {
        let path = entry.path.as_path();
        let name = file_name(path);
        if !entry.is_folder {
            if is_yaml(path) {
                self.warn(
                    path,
                    "lies outside the folder of a kind and is ignored",
                    Some("move it to <kind plural>/".into()),
                );
            }
            return;
        }
        match KINDS.iter().find(|(plural, ..)| *plural == name) {
            Some((_, kind, namespaced)) => self.folder(path, kind, *namespaced, 0),
            None => {
                let hint = did_you_mean(name, KINDS.iter().map(|(plural, ..)| *plural));
                if sorted_entries(path).is_ok_and(|entries| entries.iter().any(|entry| is_yaml(&entry.path))) {
                    self.warn(path, "is not the folder of a known kind and is ignored", hint);
                }
            }
        }
    }

    fn folder(&mut self, path: &Path, kind: &str, namespaced: bool, depth: usize) {
        let entries = match sorted_entries(path) {
            Ok(entries) => entries,
            Err(error) => return self.error(path, format!("cannot be listed: {error}")),
        };
        for entry in entries {
            if entry.is_folder {
                if depth < MAX_DEPTH {
                    self.folder(&entry.path, kind, namespaced, depth + 1);
                } else {
                    self.warn(&entry.path, "is nested too deeply and is ignored", None);
                }
            } else if is_yaml(&entry.path) {
                self.file(&entry.path, kind, namespaced);
            } else if entry.path.extension().is_some_and(|extension| extension == "yml") {
                self.warn(&entry.path, "is not read, as by Higress", Some("let its name end in .yaml".into()));
            }
        }
    }

    fn file(&mut self, path: &Path, kind: &str, namespaced: bool) {
        let relative = self.relative(path);
        let before = self.before.remove(&relative);
        let parsed = match self.look(path, &relative, before, kind, namespaced) {
            Ok(parsed) => parsed,
            // Removed or renamed since it was listed: the watcher reports that change too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.error(path, format!("cannot be read: {error}")),
        };
        self.listing.objects.extend(parsed.object.clone());
        self.listing.problems.extend_from_slice(&parsed.problems);
        self.now.insert(relative, parsed);
    }

    fn look(
        &self,
        path: &Path,
        relative: &Path,
        before: Option<Parsed>,
        kind: &str,
        namespaced: bool,
    ) -> io::Result<Parsed> {
        let metadata = fs::metadata(path)?;
        let stamp = Stamp::of(&metadata, self.started);
        let before = match before {
            Some(parsed) if stamp.is_some() && parsed.stamp == stamp => return Ok(parsed),
            other => other,
        };
        let bytes = read_bounded(path, metadata.len())?;
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        Ok(match before {
            Some(parsed) if parsed.digest == digest => Parsed { stamp, ..parsed },
            _ => parse(&bytes, digest, stamp, relative, kind, namespaced),
        })
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(self.root).unwrap_or(path).to_owned()
    }

    fn error(&mut self, path: &Path, message: String) {
        let file = self.relative(path);
        self.listing.problems.push(problem(Severity::Error, file, None, message, None));
    }

    fn warn(&mut self, path: &Path, message: &str, hint: Option<String>) {
        let file = self.relative(path);
        self.listing.problems.push(problem(Severity::Warning, file, None, message.to_owned(), hint));
    }
}

/// Identity, size and time of the last change of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds; set by the kernel at every write and rename, and not by programs.
    changed: (i64, i64),
}

impl Stamp {
    /// File systems round times, some to two seconds: a file that changed this short a time ago may change again and look
    /// the same.
    const SETTLED: Duration = Duration::from_secs(3);

    /// `None` for a file that changed just before `now`, or whose clock is not ours.
    fn of(metadata: &Metadata, now: SystemTime) -> Option<Stamp> {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let now = now.duration_since(UNIX_EPOCH).ok()?;
        let age = now.checked_sub(Duration::from_secs(u64::try_from(changed.0).ok()?))?;
        (age > Stamp::SETTLED).then(|| Stamp { inode: metadata.ino(), size: metadata.size(), changed })
    }
}

/// Bytes of one file to an object with its place.
fn parse(bytes: &[u8], digest: [u8; 32], stamp: Option<Stamp>, file: &Path, kind: &str, namespaced: bool) -> Parsed {
    let mut problems = Vec::new();
    let object = match read_object(bytes) {
        Ok(value) => identify(value, digest, file, kind, namespaced, &mut problems),
        Err((line, message, hint)) => {
            let mut problem = problem(Severity::Error, file.to_owned(), None, message, hint);
            problem.line = line;
            problems.push(problem);
            None
        }
    };
    Parsed { stamp, digest, bytes: bytes.into(), object, problems }
}

type Fault = (Option<u64>, String, Option<String>);

fn read_object(bytes: &[u8]) -> Result<Value, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count() as u64 + 1;
        (Some(line), "is not UTF-8 text".to_owned(), None)
    })?;
    match yaml::parse(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(Value::Null) => Err((None, "is empty".to_owned(), Some("delete the file if the object is gone".to_owned()))),
        Ok(_) => Err((Some(1), "is not a Kubernetes object".to_owned(), None)),
        Err(error) => Err((error.line, format!("is not valid YAML: {}", error.message), None)),
    }
}

/// Settles kind, namespace and name. As in Higress the folder gives the kind and the file its name; unlike there,
/// `metadata.namespace` is honoured.
fn identify(
    value: Value,
    digest: [u8; 32],
    file: &Path,
    kind: &str,
    namespaced: bool,
    problems: &mut Vec<Problem>,
) -> Option<RawObject> {
    let metadata = |key: &str| value.get("metadata").and_then(|metadata| metadata.get(key)).and_then(Value::as_str);
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let namespace = match metadata("namespace") {
        _ if !namespaced => "",
        None | Some("") => SYSTEM_NAMESPACE,
        Some(namespace) => namespace,
    };
    let origin = ObjectRef { kind: kind.to_owned(), namespace: namespace.to_owned(), name, file: file.to_owned() };
    let written = value.get("metadata").and_then(|metadata| metadata.get("namespace"));
    if written.is_some_and(|written| !written.is_string() && !written.is_null()) {
        // Which plugin rules and grants hold for it, the namespace decides.
        let message = "must be a string".to_owned();
        problems.push(field_problem(Severity::Error, &origin, "metadata.namespace", message, None));
        return None;
    }
    match value.get("kind").map(Value::as_str) {
        Some(Some(written)) if written != kind => {
            problems.push(field_problem(
                Severity::Error,
                &origin,
                "kind",
                format!("is `{written}`, but the folder holds {kind} objects"),
                Some("move the file to the folder of its kind"),
            ));
            return None;
        }
        Some(None) => {
            problems.push(field_problem(Severity::Error, &origin, "kind", "must be a string".to_owned(), None));
            return None;
        }
        _ => {}
    }
    if let Some(written) = metadata("name").filter(|written| *written != origin.name) {
        problems.push(field_problem(
            Severity::Warning,
            &origin,
            "metadata.name",
            format!("is `{written}`, but the file is named `{}`; the file name counts", origin.name),
            Some("rename one of them"),
        ));
    }
    Some(RawObject { origin, value: Arc::new(value), digest })
}

/// An object that two files define is ambiguous: neither may win in silence.
fn reject_doubles(listing: &mut Listing) {
    let mut first: HashMap<(String, String, String), PathBuf> = HashMap::new();
    let problems = &mut listing.problems;
    listing.objects.retain(|RawObject { origin, .. }| {
        let key = (origin.kind.clone(), origin.namespace.clone(), origin.name.clone());
        match first.get(&key) {
            None => {
                first.insert(key, origin.file.clone());
                true
            }
            Some(other) => {
                let message = format!("is already defined by {}", other.display());
                problems.push(problem(
                    Severity::Error,
                    origin.file.clone(),
                    Some(origin.to_string()),
                    message,
                    Some("delete one of the files".to_owned()),
                ));
                false
            }
        }
    });
}

fn problem(
    severity: Severity,
    file: PathBuf,
    object: Option<String>,
    message: String,
    hint: Option<String>,
) -> Problem {
    Problem { severity, file, line: None, object, field: None, message, hint }
}

fn field_problem(severity: Severity, origin: &ObjectRef, field: &str, message: String, hint: Option<&str>) -> Problem {
    Problem { severity, hint: hint.map(str::to_owned), ..Problem::error(origin, field, message) }
}

struct Entry {
    path: PathBuf,
    is_folder: bool,
}

/// Everything in a folder but hidden entries (editors' swap files, the `..data` links of mounted volumes).
fn sorted_entries(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if !file_name(&path).starts_with('.') {
            // The listing knows this already, except of links.
            let kind = entry.file_type()?;
            let is_folder = kind.is_dir() || (kind.is_symlink() && path.is_dir());
            entries.push(Entry { path, is_folder });
        }
    }
    entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml")
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn read_bounded(path: &Path, size: u64) -> io::Result<Vec<u8>> {
    if size > MAX_FILE_BYTES {
        let message = format!("{size} bytes are more than the {MAX_FILE_BYTES} a configuration object may have");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    fs::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn problems(listing: &Listing) -> String {
        listing.problems.iter().map(|problem| format!("{problem}\n")).collect()
    }

    #[test]
    fn place_of_objects() {
        let root = folder(&[
            ("ingresses/a.yaml", "metadata: {name: a}\nspec: {}\n"),
            ("ingresses/team/b.yaml", "metadata: {namespace: team}\nspec: {}\n"),
            ("ingresses/c.yaml.tmp", "{"),
            ("ingresses/d.yml", "{"),
            ("ingresses/.e.yaml", "{"),
            ("gatewayclasses/g.yaml", "metadata: {namespace: team}\n"),
            ("wasmplugins/ai-proxy.internal.yaml", "spec: {}\n"),
        ]);
        let listing = Folder::new(root.path()).read().unwrap();
        assert_eq!(
            problems(&listing),
            "warning: ingresses/d.yml: is not read, as by Higress (let its name end in .yaml)\n"
        );
        let found: Vec<String> = listing
            .objects
            .iter()
            .map(|object| format!("{} {}", object.origin, object.origin.file.display()))
            .collect();
        assert_eq!(
            found,
            [
                "GatewayClass /g gatewayclasses/g.yaml",
                "Ingress higress-system/a ingresses/a.yaml",
                "Ingress team/b ingresses/team/b.yaml",
                "WasmPlugin higress-system/ai-proxy.internal wasmplugins/ai-proxy.internal.yaml",
            ]
        );
    }

    #[test]
    fn a_settled_file_is_read_again_only_after_a_change_even_one_of_equal_length() {
        let root = folder(&[("ingresses/a.yaml", "spec: {a: 1}\n"), ("ingresses/b.yaml", "spec: {b: 1}\n")]);
        let later = |seconds| SystemTime::now() + Duration::from_secs(seconds);
        let mut folder = Folder::new(root.path());
        let first = folder.read_at(later(10)).unwrap();
        fs::write(root.path().join("ingresses/a.yaml"), "spec: {a: 2}\n").unwrap();
        let second = folder.read_at(later(20)).unwrap();
        assert_eq!(second.objects[0].value["spec"]["a"], 2);
        assert!(Arc::ptr_eq(&first.objects[1].value, &second.objects[1].value));
        fs::remove_file(root.path().join("ingresses/b.yaml")).unwrap();
        assert_eq!(folder.read_at(later(30)).unwrap().objects.len(), 1);
    }

    #[test]
    fn a_file_that_changed_a_moment_ago_has_no_stamp() {
        let root = folder(&[("ingresses/a.yaml", "spec: {a: 1}\n")]);
        let metadata = fs::metadata(root.path().join("ingresses/a.yaml")).unwrap();
        assert_eq!(Stamp::of(&metadata, SystemTime::now()), None);
        assert_eq!(Stamp::of(&metadata, UNIX_EPOCH), None, "a clock that runs behind the file system's");
        assert!(Stamp::of(&metadata, SystemTime::now() + Duration::from_secs(10)).is_some());
    }

    #[test]
    fn faults_are_named_and_the_rest_is_read() {
        let root = folder(&[
            ("ingresses/bad.yaml", "metadata:\n\tname: x\n"),
            ("ingresses/binary.yaml", "a: 1\n"),
            ("ingresses/empty.yaml", "# nothing\n"),
            ("ingresses/good.yaml", "spec: {}\n"),
            ("ingresses/list.yaml", "- a\n"),
            ("ingresses/other.yaml", "kind: Service\n"),
            ("ingresses/renamed.yaml", "metadata: {name: original}\n"),
            ("ingresses/sub/good.yaml", "spec: {}\n"),
            ("ingress/x.yaml", "spec: {}\n"),
            ("notes/readme.txt", "text"),
            ("stray.yaml", "spec: {}\n"),
        ]);
        fs::write(root.path().join("ingresses/binary.yaml"), b"a: 1\nb: \xff\n").unwrap();
        let listing = Folder::new(root.path()).read().unwrap();
        expect_test::expect![[r#"
            warning: ingress: is not the folder of a known kind and is ignored (did you mean `ingresses`?)
            error: ingresses/bad.yaml:2: is not valid YAML: tabs disallowed within this context (block indentation)
            error: ingresses/binary.yaml:2: is not UTF-8 text
            error: ingresses/empty.yaml: is empty (delete the file if the object is gone)
            error: ingresses/list.yaml:1: is not a Kubernetes object
            error: ingresses/other.yaml: Ingress higress-system/other: kind: is `Service`, but the folder holds Ingress objects (move the file to the folder of its kind)
            warning: ingresses/renamed.yaml: Ingress higress-system/renamed: metadata.name: is `original`, but the file is named `renamed`; the file name counts (rename one of them)
            warning: stray.yaml: lies outside the folder of a kind and is ignored (move it to <kind plural>/)
            error: ingresses/sub/good.yaml: Ingress higress-system/good: is already defined by ingresses/good.yaml (delete one of the files)
        "#]]
        .assert_eq(&problems(&listing));
        assert_eq!(listing.objects.len(), 2);
    }

    #[test]
    fn only_changed_files_are_parsed_again() {
        let root = folder(&[("ingresses/a.yaml", "spec: {}\n"), ("ingresses/b.yaml", "spec: {}\n")]);
        let mut source = Folder::new(root.path());
        let before = source.read().unwrap();
        fs::write(root.path().join("ingresses/b.yaml"), "spec: {rules: []}\n").unwrap();
        let after = source.read().unwrap();
        let value = |listing: &Listing, i: usize| listing.objects.get(i).unwrap().value.clone();
        assert!(Arc::ptr_eq(&value(&before, 0), &value(&after, 0)));
        assert_ne!(value(&before, 1), value(&after, 1));
        fs::remove_file(root.path().join("ingresses/a.yaml")).unwrap();
        assert_eq!(source.read().unwrap().objects.len(), 1);
    }

    #[test]
    fn missing_folder_says_what_to_do() {
        let error = Folder::new("/nonexistent/folder").read().unwrap_err().to_string();
        assert!(error.contains("/nonexistent/folder") && error.contains("--config-dir"), "{error}");
    }

    #[test]
    fn link_loops_end() {
        let root = folder(&[("ingresses/a.yaml", "spec: {}\n")]);
        std::os::unix::fs::symlink(root.path().join("ingresses"), root.path().join("ingresses/loop")).unwrap();
        let listing = Folder::new(root.path()).read().unwrap();
        assert_eq!(listing.objects.len(), 1);
        assert!(problems(&listing).contains("nested too deeply"), "{}", problems(&listing));
    }

    #[test]
    fn flattened_files_are_in_one_namespace_and_others_stay_as_they_are() {
        let own = "# kept\nmetadata: {namespace: higress-system}\nspec: {}\n";
        let root = folder(&[
            ("ingresses/own.yaml", own),
            ("ingresses/sub/other.yaml", "metadata: {namespace: team, labels: {a: b}}\nspec: {rules: []}\n"),
            ("gatewayclasses/g.yaml", "metadata: {namespace: team}\n"),
            ("ingresses/bad.yaml", "a: b: c"),
        ]);
        let files = flattened(&mut Folder::new(root.path())).unwrap();
        let text = |name: &str| {
            let (_, content) = files.iter().find(|(file, _)| file == Path::new(name)).unwrap();
            String::from_utf8(content.clone().unwrap()).unwrap()
        };
        assert_eq!(files.len(), 4);
        assert_eq!((text("ingresses/own.yaml").as_str(), text("ingresses/bad.yaml").as_str()), (own, "a: b: c"));
        assert_eq!(text("gatewayclasses/g.yaml"), "metadata: {namespace: team}\n");
        let moved = yaml::parse(&text("ingresses/sub/other.yaml")).unwrap();
        let expected = serde_json::json!({"metadata": {"namespace": SYSTEM_NAMESPACE, "labels": {"a": "b"}}, "spec": {"rules": []}});
        assert_eq!(moved, expected);
    }
}
