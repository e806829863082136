//! `kill -9` at any moment leaves a readable database with whole transactions and everything a flush has acknowledged.
//! The victim is this test binary, started again on `victim` alone.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use super::record::{AnswerRecord, ExchangeRecord, Role, ScoreRecord, ScoreSource, ScoreTarget, StoredExchange};
use super::testing::{answer, exchange};
use super::{FILE_NAME, Filter, Flywheel, Options, Store, now_ms};

const PATH_VARIABLE: &str = "WEIRGATE_KILL_TEST_DATABASE";
const ACKNOWLEDGED: &str = "acknowledged ";
const N_LANES: usize = 3;

#[test]
fn a_killed_writer_leaves_whole_transactions_and_all_it_acknowledged() {
    let mut n_total = 0;
    for round in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        let (mut victim, mut reports) = start_victim(&path);
        // Later in each round, so that the kill finds the write-ahead log, its checkpoints and the file at other stages.
        let n_acknowledged = read_acknowledged(&mut reports, 1 + 5 * round);
        victim.kill();

        let store = Store::open(&path).unwrap();
        assert_eq!(store.integrity().unwrap(), Vec::<String>::new());
        let n_stored = check_lanes(&store);
        assert!(n_stored[0] >= n_acknowledged, "round {round}: {n_acknowledged} acknowledged, {n_stored:?} stored");
        n_total += n_stored.iter().sum::<usize>();

        let flywheel = Flywheel::open(&path, Options::default()).unwrap();
        flywheel.record(exchange("after", 1));
        flywheel.flush().unwrap();
    }
    assert!(n_total > 1000, "the victims hardly wrote: {n_total}");
}

#[test]
fn another_process_can_export_import_and_prune_while_the_gateway_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let (mut victim, mut reports) = start_victim(&path);
    let n_first = read_acknowledged(&mut reports, 20);
    let store = Store::open(&path).unwrap();
    let mut exported = Vec::new();
    assert!(store.export(&mut exported, &Filter::default()).unwrap() >= n_first as u64);
    let n_deleted = store.prune(Some(Duration::ZERO), None).unwrap().n_deleted;
    assert!(n_deleted >= n_first as u64);
    // The pruned lines come back (some may have survived, written meanwhile).
    let report = store.import(&mut &*exported, None).unwrap();
    assert!(report.n_inserted > 0 && report.n_bad == 0, "{report:?}");
    assert!(read_acknowledged(&mut reports, 20) > n_first, "the gateway still writes");
    victim.kill();
    assert_eq!(store.integrity().unwrap(), Vec::<String>::new());
}

/// The other process: records on several threads as fast as the queue takes it, and says on stderr what it knows to
/// be on disk. Ends when killed.
#[test]
#[ignore = "started by the tests above, to be killed"]
fn victim() {
    let path = std::env::var(PATH_VARIABLE).expect("this test is only for the tests above to start");
    let options = Options { flush_interval: Duration::from_millis(5), queue_rows: usize::MAX, ..Options::default() };
    let flywheel = Flywheel::open(Path::new(&path), options).unwrap();
    std::thread::scope(|scope| {
        for lane in 0..N_LANES {
            let flywheel = flywheel.clone();
            scope.spawn(move || {
                for number in 0.. {
                    flywheel.record(numbered(lane, number));
                    let target = ScoreTarget::Served;
                    let exchange_id = id(lane, number);
                    flywheel.record_score(ScoreRecord {
                        exchange_id,
                        target,
                        score: 1.0,
                        source: ScoreSource::Judge,
                        at_ms: 1,
                    });
                    // Only the first lane waits for the disk at every step; the others let the queue grow in between.
                    if lane == 0 || number % 20 == 0 {
                        flywheel.flush().unwrap();
                    }
                    if lane == 0 && writeln!(std::io::stderr(), "{ACKNOWLEDGED}{}", number + 1).is_err() {
                        // Nobody listens any more, so nobody will kill us either.
                        std::process::abort();
                    }
                }
            });
        }
    });
}

/// Killed at the latest when its test ends, however that ends.
struct Victim(Child);

impl Victim {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start_victim(path: &Path) -> (Victim, BufReader<ChildStderr>) {
    let module = module_path!().split_once("::").map_or("", |(_crate, module)| module);
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", &format!("{module}::victim")])
        .env(PATH_VARIABLE, path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let reports = BufReader::new(victim.stderr.take().unwrap());
    (Victim(victim), reports)
}

/// Reads `n_reports` more acknowledgements and returns the last: how many exchanges of lane 0 are on disk.
fn read_acknowledged(reports: &mut impl BufRead, n_reports: usize) -> usize {
    let mut lines = reports.lines().map(Result::unwrap);
    let mut acknowledged = lines.by_ref().filter_map(|line| line.strip_prefix(ACKNOWLEDGED)?.parse().ok());
    acknowledged.nth(n_reports - 1).expect("the victim ended by itself")
}

fn id(lane: usize, number: usize) -> String {
    format!("{lane}-{number}")
}

/// As many answers as the number says, so that a torn transaction shows.
fn numbered(lane: usize, number: usize) -> ExchangeRecord {
    let candidate = |i| AnswerRecord { role: Role::Candidate, ..answer(&format!("model-{i}"), None) };
    let mut record = exchange(&id(lane, number), now_ms());
    record.answers.extend((0..number % 5).map(candidate));
    record
}

/// Each lane must be whole from its start to some point, for only the end of the queue may be lost; the last exchange
/// may lack its score. Returns the lanes' lengths.
fn check_lanes(store: &Store) -> [usize; N_LANES] {
    let mut exported = Vec::new();
    store.export(&mut exported, &Filter::default()).unwrap();
    let mut lanes: [BTreeMap<usize, ExchangeRecord>; N_LANES] = Default::default();
    for line in exported.lines() {
        let StoredExchange { exchange, .. } = serde_json::from_str(&line.unwrap()).unwrap();
        let (lane, number) = exchange.id.split_once('-').unwrap();
        lanes[lane.parse::<usize>().unwrap()].insert(number.parse().unwrap(), exchange);
    }
    for lane in &lanes {
        for (expected, (number, exchange)) in lane.iter().enumerate() {
            assert_eq!(expected, *number, "an exchange in the middle of a lane is lost");
            assert_eq!(exchange.answers.len(), 1 + number % 5, "{} is torn", exchange.id);
            let is_last = number + 1 == lane.len();
            assert!(is_last || exchange.answers[0].score.is_some(), "{} lost its score", exchange.id);
        }
    }
    lanes.map(|lane| lane.len())
}
