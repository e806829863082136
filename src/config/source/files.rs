//! Reads the folder into [`RawObject`]s. Called at start, by `validate`, and after every change; a file that did not change
//! is not read again, one whose bytes did not change is not parsed again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use super::object::{Parsed, reject_doubles};
use super::scan::Scan;
use super::{FileContent, Listing, RawObject, SourceError};
use crate::config::{Problem, SYSTEM_NAMESPACE, yaml};

/// A configuration folder and what was last read from it.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    parsed: HashMap<PathBuf, Parsed>,
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
        let mut listing = Scan::run(&self.root, started, &mut self.parsed).map_err(unreadable)?;
        reject_doubles(&mut listing);
        Ok(listing)
    }
}

/// The files of a folder as Higress standalone reads them, which knows one namespace: relative name and content. What names
/// another is written anew, everything else stays as it is. And what is wrong with the folder: a file that cannot be read is not among them.
///
/// # Errors
/// The folder cannot be listed.
pub fn flattened(folder: &mut Folder) -> Result<(Vec<FileContent>, Vec<Problem>), SourceError> {
    let problems = folder.read()?.problems;
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
    Ok((files, problems))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::time::Duration;

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
            ("ingresses/d.JSON", "{"),
            ("ingresses/notes.txt", "{"),
            ("ingresses/.e.yaml", "{"),
            ("gatewayclasses/g.yaml", "metadata: {namespace: team}\n"),
            ("wasmplugins/ai-proxy.internal.yaml", "spec: {}\n"),
        ]);
        let listing = Folder::new(root.path()).read().unwrap();
        assert_eq!(
            problems(&listing),
            "warning: ingresses/d.JSON: is not read, as by Higress (let its name end in .yaml)\n\
             warning: ingresses/d.yml: is not read, as by Higress (let its name end in .yaml)\n"
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

    /// Opening a pipe waits for a writer: no reading of the folder came to an end any more.
    #[test]
    fn a_pipe_is_a_fault_and_not_waited_for() {
        let root = folder(&[("ingresses/a.yaml", "spec: {}\n")]);
        let pipe = root.path().join("ingresses/pipe.yaml");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let listing = Folder::new(root.path()).read().unwrap();
        assert_eq!(problems(&listing), "error: ingresses/pipe.yaml: cannot be read: it is no regular file\n");
        assert_eq!(listing.objects.len(), 1);
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

    /// Regression: its route was gone in silence.
    #[test]
    fn a_link_that_leads_nowhere_is_a_fault() {
        let root = folder(&[("ingresses/a.yaml", "spec: {}\n")]);
        std::os::unix::fs::symlink("gone.yaml", root.path().join("ingresses/b.yaml")).unwrap();
        let listing = Folder::new(root.path()).read().unwrap();
        assert_eq!(problems(&listing), "error: ingresses/b.yaml: is a link that leads nowhere\n");
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
        let (files, _) = flattened(&mut Folder::new(root.path())).unwrap();
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
