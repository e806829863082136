//! One pass over the folder: which files are objects, which of them changed.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::Listing;
use super::object::{Parsed, parse, problem};
use crate::config::problem::Severity;
use crate::config::suggest::did_you_mean;

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

/// One pass over the folder.
pub struct Scan<'a> {
    root: &'a Path,
    started: SystemTime,
    /// What the pass before found and this one has not come to.
    before: HashMap<PathBuf, Parsed>,
    now: HashMap<PathBuf, Parsed>,
    listing: Listing,
}

impl<'a> Scan<'a> {
    /// Reads every file of a known kind, and parses those that differ from what is `parsed`, which is brought up to date.
    ///
    /// # Errors
    /// The folder itself cannot be listed; then nothing is changed.
    pub fn run(root: &'a Path, started: SystemTime, parsed: &mut HashMap<PathBuf, Parsed>) -> io::Result<Listing> {
        let entries = sorted_entries(root)?;
        let before = std::mem::take(parsed);
        let now = HashMap::with_capacity(before.len());
        let mut scan = Scan { root, started, before, now, listing: Listing::default() };
        let is_kind =
            |entry: &Entry| entry.is_folder && KINDS.iter().any(|(plural, ..)| *plural == file_name(&entry.path));
        if !entries.is_empty() && !entries.iter().any(is_kind) {
            scan.no_kinds(&entries);
        }
        for entry in entries {
            scan.top_entry(&entry);
        }
        *parsed = scan.now;
        Ok(scan.listing)
    }

    /// The folder has something in it, and nothing that would be read: perhaps what is meant lies deeper.
    fn no_kinds(&mut self, entries: &[Entry]) {
        let has_kinds = |entry: &&Entry| {
            let within = sorted_entries(&entry.path).unwrap_or_default();
            within.iter().any(|entry| KINDS.iter().any(|(plural, ..)| *plural == file_name(&entry.path)))
        };
        let deeper = entries.iter().filter(|entry| entry.is_folder).find(has_kinds);
        let hint = deeper.map(|entry| format!("did you mean {}?", entry.path.display()));
        let hint = hint.or_else(|| Some("it has folders such as ingresses, mcpbridges, wasmplugins".to_owned()));
        self.warn(self.root, "has no folder of a known kind, so there is nothing to serve", hint);
    }

    fn top_entry(&mut self, entry: &Entry) {
        let path = entry.path.as_path();
        let name = file_name(path);
        if !entry.is_folder {
            if is_meant_as_yaml(path) {
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
                if sorted_entries(path).is_ok_and(|entries| entries.iter().any(|entry| is_meant_as_yaml(&entry.path))) {
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
            } else if is_yaml(&entry.path) && entry.path.to_str().is_none() {
                // Nothing can name it: not the history, not a report.
                self.error(&entry.path, "cannot be read: its name is no Unicode (UTF-8); rename it".to_owned());
            } else if is_yaml(&entry.path) {
                self.file(&entry.path, kind, namespaced);
            } else if is_meant_as_yaml(&entry.path) {
                self.warn(&entry.path, "is not read, as by Higress", Some("let its name end in .yaml".into()));
            }
        }
    }

    fn file(&mut self, path: &Path, kind: &str, namespaced: bool) {
        let relative = self.relative(path);
        let before = self.before.remove(&relative);
        let parsed = match self.look(path, &relative, before, kind, namespaced) {
            Ok(parsed) => parsed,
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
                return self.error(path, "is a link that leads nowhere".to_owned());
            }
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
        if !metadata.is_file() {
            // Opening a pipe waits until somebody writes to it.
            return Err(io::Error::other("it is no regular file"));
        }
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
pub struct Stamp {
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

pub fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml")
}

/// Names under which others keep objects, and Higress reads none.
fn is_meant_as_yaml(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["yml", "yaml", "json"].iter().any(|name| extension.eq_ignore_ascii_case(name)))
}

pub fn file_name(path: &Path) -> &str {
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

    #[test]
    fn a_file_that_changed_a_moment_ago_has_no_stamp() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("ingresses")).unwrap();
        fs::write(root.path().join("ingresses/a.yaml"), "spec: {a: 1}\n").unwrap();
        let metadata = fs::metadata(root.path().join("ingresses/a.yaml")).unwrap();
        assert_eq!(Stamp::of(&metadata, SystemTime::now()), None);
        assert_eq!(Stamp::of(&metadata, UNIX_EPOCH), None, "a clock that runs behind the file system's");
        assert!(Stamp::of(&metadata, SystemTime::now() + Duration::from_secs(10)).is_some());
    }
}
