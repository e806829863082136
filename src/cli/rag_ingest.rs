//! `weirgate rag ingest`: files, folders and addresses into a knowledge base. What cannot be read is named and costs nothing else.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::CliError;
use super::output::{complain, say, say_json};
use crate::rag::RagError;
use crate::rag::ingest::{IngestError, IngestReport, NewDocument};
use crate::rag::knowledge_base::{NewBase, Rag};
use crate::rag::ports::{Fetch, Method, Reach, WebRequest};
use crate::rag::read::{self, Limits};

/// Documents that are handed over together: bounds what an ingest keeps in memory.
const GROUP_BYTES: usize = 16 << 20;

/// For the whole of one address.
const FETCH: Duration = Duration::from_secs(120);

/// Name of the metadata that citations link to.
const URL: &str = "url";

/// What one name on the command line, or one file below it, stands for.
enum Source {
    File(PathBuf),
    Url(String),
}

impl Source {
    fn name(&self) -> String {
        match self {
            Source::File(path) => path.display().to_string(),
            Source::Url(url) => url.clone(),
        }
    }
}

pub async fn ingest(
    rag: &Rag,
    name: &str,
    new: &NewBase,
    named: &[OsString],
    tenant: Option<&str>,
    web: &dyn Fetch,
) -> Result<IngestReport, CliError> {
    let (sources, unusable) = sources(named);
    if sources.is_empty() {
        return Ok(IngestReport { errors: unusable, ..IngestReport::default() });
    }
    let base = match rag.base(name).await {
        Err(RagError::UnknownBase { .. }) => rag.create(name, new).await,
        found => found,
    };
    let base = base.map_err(CliError::failed)?;
    if base.forgoes_vectors() {
        complain(&format!(
            "{name} was made without an embedding model and stays searched by words alone; to have vectors, make it anew"
        ));
    }
    let layout = base.table().layout();
    for (option, asked, made) in [
        ("--chunk-size", new.chunk_size, layout.chunk_size),
        ("--chunk-overlap", new.chunk_overlap, layout.chunk_overlap),
    ] {
        if let Some(asked) = asked.filter(|asked| *asked != made) {
            complain(&format!(
                "{option} {asked} has no effect: {name} was made with {made}; for another, make it anew"
            ));
        }
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} files  {msg}  {elapsed}, {eta} left");
    let bar = ProgressBar::new(sources.len() as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut total = IngestReport { errors: unusable, ..IngestReport::default() };
    let (mut group, mut bytes) = (Vec::new(), 0);
    for source in &sources {
        let read = match source {
            Source::File(path) => read_file(path, tenant),
            Source::Url(url) => read_url(url, tenant, web).await,
        };
        match read {
            Ok((documents, n_bytes)) => {
                group.extend(documents);
                bytes += n_bytes;
            }
            Err(message) => total.errors.push(IngestError { document: source.name(), message }),
        }
        if bytes >= GROUP_BYTES {
            add(&mut total, base.ingest(std::mem::take(&mut group), &|_| {}).await.map_err(CliError::failed)?);
            bytes = 0;
        }
        bar.set_message(format!("{} chunks", total.chunks));
        bar.inc(1);
    }
    let written = total.chunks;
    let last = base.ingest(group, &|progress| bar.set_message(format!("{} chunks", written + progress.chunks))).await;
    add(&mut total, last.map_err(CliError::failed)?);
    if total.chunks > 0 {
        base.table().maintain().await.map_err(CliError::failed)?;
    }
    bar.finish_and_clear();
    Ok(total)
}

pub fn show_report(report: &IngestReport, json: bool) -> Result<(), CliError> {
    if json {
        say_json(report);
    } else {
        let IngestReport { added, updated, unchanged, removed, chunks, errors } = report;
        for error in errors {
            complain(&format!("{}: {}", error.document, error.message));
        }
        say(&format!(
            "{added} documents added, {updated} updated, {unchanged} unchanged, {removed} removed, {chunks} chunks written, {} left out",
            errors.len()
        ));
    }
    let nothing = report.added + report.updated + report.unchanged == 0 && !report.errors.is_empty();
    if nothing { Err(CliError::Failed("nothing could be stored".to_owned())) } else { Ok(()) }
}

/// The new documents of a source, and how many bytes it had.
type Read = Result<(Vec<NewDocument>, usize), String>;

fn read_file(path: &Path, tenant: Option<&str>) -> Read {
    let limits = Limits::default();
    let metadata = path.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        // Reading a pipe waits until somebody writes to it, and a device may have no end.
        return Err("it is no regular file".to_owned());
    }
    limits.check_size(metadata.len()).map_err(|error| error.to_string())?;
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let source = path.display().to_string();
    let documents = read::read(&source, None, &bytes, &limits).map_err(|error| error.to_string())?;
    let new =
        documents.into_iter().map(|document| NewDocument::of_source(&source, document, tenant.map(str::to_owned)));
    Ok((new.collect(), bytes.len()))
}

async fn read_url(url: &str, tenant: Option<&str>, web: &dyn Fetch) -> Read {
    let limits = Limits::default();
    let request = WebRequest {
        method: Method::Get,
        url: url.to_owned(),
        headers: Vec::new(),
        body: None,
        timeout: FETCH,
        max_bytes: limits.max_file_bytes,
        reach: Reach::Operator,
    };
    let answer = web.fetch(request).await?;
    if !(200..300).contains(&answer.status) {
        return Err(format!("it answered {}", answer.status));
    }
    let name = file_name(url);
    // Many servers call everything they do not know plain text; the name then says more.
    let is_a_guess = answer.content_type.starts_with("text/plain") && name.contains('.');
    let media_type = Some(answer.content_type.as_str()).filter(|media_type| !media_type.is_empty() && !is_a_guess);
    let documents = read::read(name, media_type, &answer.body, &limits).map_err(|error| error.to_string())?;
    let new = documents.into_iter().map(|mut document| {
        document.metadata.entry(URL.to_owned()).or_insert_with(|| url.to_owned());
        NewDocument::of_source(url, document, tenant.map(str::to_owned))
    });
    Ok((new.collect(), answer.body.len()))
}

/// The last part of an address' path, which names a file or is empty.
fn file_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    path.split_once('/').map_or("", |(_, path)| path.rsplit('/').next().unwrap_or_default())
}

/// What the names stand for in order: of a folder its files, without hidden ones. And what of it cannot be used.
fn sources(named: &[OsString]) -> (Vec<Source>, Vec<IngestError>) {
    let mut found = Found::default();
    for name in named {
        if let Some(url) = name.to_str().filter(|name| name.starts_with("http://") || name.starts_with("https://")) {
            found.sources.push(Source::Url(url.to_owned()));
            continue;
        }
        found.path(Path::new(name));
    }
    (found.sources, found.unusable)
}

#[derive(Default)]
struct Found {
    sources: Vec<Source>,
    unusable: Vec<IngestError>,
    /// Folders by where they really are: a link may lead back up.
    seen: HashSet<PathBuf>,
}

impl Found {
    fn path(&mut self, path: &Path) {
        // Links lead to what they lead to, as in the folders that Kubernetes mounts.
        let walked = path.metadata().and_then(|metadata| match metadata.is_dir() {
            true => self.folder(path),
            false => {
                self.sources.push(Source::File(path.to_owned()));
                Ok(())
            }
        });
        if let Err(error) = walked {
            self.unusable.push(IngestError { document: path.display().to_string(), message: error.to_string() });
        }
    }

    fn folder(&mut self, folder: &Path) -> std::io::Result<()> {
        if !self.seen.insert(folder.canonicalize()?) {
            return Ok(());
        }
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        entries.retain(|path| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')));
        entries.sort();
        entries.iter().for_each(|path| self.path(path));
        Ok(())
    }
}

fn add(total: &mut IngestReport, part: IngestReport) {
    total.added += part.added;
    total.updated += part.updated;
    total.unchanged += part.unchanged;
    total.removed += part.removed;
    total.chunks += part.chunks;
    total.errors.extend(part.errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_file_or_none() {
        for (url, expected) in [
            ("https://example.org/docs/guide.md?raw=1#top", "guide.md"),
            ("https://example.org/docs/", ""),
            ("https://example.org", ""),
            ("http://127.0.0.1:8000/a%20b.pdf", "a%20b.pdf"),
        ] {
            assert_eq!(file_name(url), expected, "{url}");
        }
    }
}
