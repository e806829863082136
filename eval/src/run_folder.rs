//! The folder every run writes: `<out>/<date>-<machine>-<name>/` with `summary.json` (one flat object: metrics as numbers, plus
//! commit, command, machine and date), `report.md`, and from most commands charts and raw data. The same name on the same day
//! replaces the run before.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::Value;

pub struct RunFolder {
    pub path: PathBuf,
    /// Where and when it ran; the same text fields go into every summary.
    pub provenance: BTreeMap<&'static str, String>,
}

impl RunFolder {
    pub fn create(out: &Path, name: &str) -> Result<RunFolder> {
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            bail!("--name {name:?}: it becomes part of a folder name; use letters, digits, '-', '_' and '.'");
        }
        let date = today();
        let machine = Machine::read();
        let path = out.join(format!("{date}-{}-{name}", machine.slug()));
        std::fs::create_dir_all(&path).with_context(|| format!("run folder {}: cannot be made", path.display()))?;
        let provenance = BTreeMap::from([
            ("commit", commit()),
            ("command", without_secrets(std::env::args().enumerate().map(own_name))),
            ("machine", machine.to_string()),
            ("date", date),
        ]);
        Ok(RunFolder { path, provenance })
    }

    pub fn write(&self, file: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path.join(file);
        std::fs::write(&path, contents).with_context(|| format!("{}: cannot be written", path.display()))
    }

    /// `summary.json`: the metrics beside the provenance. It is written first: what an earlier run of the name left goes, as a
    /// chart that this run does not draw would pass for its own.
    pub fn write_summary(&self, metrics: &BTreeMap<String, f64>) -> Result<()> {
        self.clear()?;
        let mut summary: BTreeMap<&str, Value> =
            metrics.iter().map(|(name, value)| (name.as_str(), round(*value).into())).collect();
        summary.extend(self.provenance.iter().map(|(name, value)| (*name, value.as_str().into())));
        self.write("summary.json", serde_json::to_string_pretty(&summary)? + "\n")
    }

    /// Removes the files that runs write, and nothing else.
    fn clear(&self) -> Result<()> {
        let cannot = || format!("run folder {}: cannot be emptied", self.path.display());
        for entry in std::fs::read_dir(&self.path).with_context(cannot)? {
            let path = entry.with_context(cannot)?.path();
            let is_named = |name| path.file_name().is_some_and(|own| own == name);
            let is_chart = path.extension().is_some_and(|extension| extension == "svg");
            if is_chart || ["summary.json", "report.md", "raw.jsonl.gz"].into_iter().any(is_named) {
                std::fs::remove_file(&path).with_context(cannot)?;
            }
        }
        Ok(())
    }

    /// Gzipped JSON lines.
    pub fn write_rows<T: Serialize>(&self, file: &str, rows: &[T]) -> Result<()> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        for row in rows {
            serde_json::to_writer(&mut encoder, row)?;
            encoder.write_all(b"\n")?;
        }
        self.write(file, encoder.finish()?)
    }

    /// The line under a report's title.
    pub fn provenance_line(&self) -> String {
        let field = |name| self.provenance.get(name).map_or("", String::as_str);
        format!("{} · {} · commit {}\n\n`{}`\n", field("date"), field("machine"), field("commit"), field("command"))
    }
}

/// The program's own name without the folder it happened to be built in.
fn own_name((position, argument): (usize, String)) -> String {
    let name = std::path::Path::new(&argument).file_name().filter(|_| position == 0);
    name.map_or_else(|| argument.clone(), |name| name.to_string_lossy().into_owned())
}

/// The command line, with `***` for keys and tokens: it is published with the numbers.
fn without_secrets(words: impl Iterator<Item = String>) -> String {
    const SECRET_FLAGS: [&str; 4] = ["--api-key", "--train-token", "--token", "--judge-key"];
    let mut shown = Vec::new();
    let mut is_secret = false;
    for word in words {
        let hidden = match word.split_once('=') {
            _ if is_secret => "***".to_string(),
            Some((flag, _)) if SECRET_FLAGS.contains(&flag) => format!("{flag}=***"),
            _ => {
                let parts = word.split(',').map(|part| if part.starts_with("key=") { "key=***" } else { part });
                parts.collect::<Vec<_>>().join(",")
            }
        };
        is_secret = SECRET_FLAGS.contains(&word.as_str());
        shown.push(hidden);
    }
    shown.join(" ")
}

/// Six significant digits: what a reader can use of a measurement.
fn round(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

struct Machine {
    cpu: String,
    n_cpus: usize,
    memory_gib: u64,
}

impl Machine {
    fn read() -> Machine {
        let field = |file: &str, name: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_string())
        };
        let memory_kib =
            field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Machine {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_string()),
            n_cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: (memory_kib.unwrap_or_default() + (1 << 19)) >> 20,
        }
    }

    /// For example `amd-epyc-7b13-2cpu`.
    fn slug(&self) -> String {
        let words = self.cpu.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let words = words.filter(|word| !["R", "TM", "CPU", "Processor", "Core"].contains(word)).take(3);
        format!("{}-{}cpu", words.collect::<Vec<_>>().join("-").to_lowercase(), self.n_cpus)
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {} CPUs, {} GiB", self.cpu, self.n_cpus, self.memory_gib)
    }
}

/// The commit of the working folder, marked `-dirty` where files differ from it; `unknown` outside a repository.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_string() };
    let is_dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    if is_dirty { commit + "-dirty" } else { commit }
}

/// Today in UTC, as `YYYY-MM-DD`.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Year, month and day of a day counted from 1970-01-01 (Hinnant's days-to-civil algorithm).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (days, date) in [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (20_779, (2026, 11, 22))] {
            assert_eq!(civil(days), date);
        }
    }

    #[test]
    fn secrets_are_not_published() {
        let words = "x --api-key sk-1 --train-token=sk-2 --target gw=http://h,key=sk-3,pid=7 --name a";
        let expected = "x --api-key *** --train-token=*** --target gw=http://h,key=***,pid=7 --name a";
        assert_eq!(without_secrets(words.split(' ').map(String::from)), expected);
    }

    #[test]
    fn what_an_earlier_run_left_goes_and_other_files_stay() {
        let out = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(out.path(), "t").unwrap();
        for file in ["curve.svg", "report.md", "raw.jsonl.gz", "notes.txt"] {
            folder.write(file, "old").unwrap();
        }
        RunFolder::create(out.path(), "t").unwrap().write_summary(&BTreeMap::new()).unwrap();
        let left = std::fs::read_dir(&folder.path).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<_> = left.map(|name| name.into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["notes.txt", "summary.json"]);
    }

    #[test]
    fn the_summary_is_flat() {
        let out = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(out.path(), "t").unwrap();
        folder.write_summary(&BTreeMap::from([("score_mean".to_string(), 0.123_456_789)])).unwrap();
        let text = std::fs::read_to_string(folder.path.join("summary.json")).unwrap();
        let summary: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(summary["score_mean"], 0.123_457);
        for name in ["commit", "command", "machine", "date"] {
            assert!(summary[name].is_string());
        }
        assert!(RunFolder::create(out.path(), "../x").is_err());
    }
}
