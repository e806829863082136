use rusqlite::TransactionBehavior;

use super::super::record::{Rates, Role, ScoreSource, ScoreTarget};
use super::super::testing::{answer, exchange};
use super::super::{FILE_NAME, Filter};
use super::*;

fn open(options: Options) -> (tempfile::TempDir, Flywheel) {
    let folder = tempfile::tempdir().unwrap();
    let flywheel = Flywheel::open(&folder.path().join(FILE_NAME), options).unwrap();
    (folder, flywheel)
}

fn score(target: ScoreTarget, score: f64, at_ms: i64) -> ScoreRecord {
    ScoreRecord { exchange_id: "r1".into(), target, score, source: ScoreSource::Judge, at_ms }
}

fn feedback(at_ms: i64, score: Option<f64>, text: &str) -> FeedbackRecord {
    FeedbackRecord { at_ms, score, text: Some(text.into()), consumer: None }
}

fn n_exchanges(flywheel: &Flywheel) -> u64 {
    flywheel.store().stats(&Filter::default()).unwrap().n_exchanges
}

#[test]
fn what_belongs_together_is_queued_in_order_and_nothing_is_lost() {
    let (_folder, flywheel) = open(Options::default());
    flywheel.record(exchange("r1", 1));
    flywheel.record_answer("r1", AnswerRecord { role: Role::Shadow, ..answer("large", None) });
    flywheel.record_score(score(ScoreTarget::Model("large".into()), 0.75, 2));
    flywheel.record_score(score(ScoreTarget::Served, 0.5, 3));
    flywheel.record_feedback("r1", "acme", Rates::All, feedback(5, Some(1.0), "good"));
    flywheel.record_feedback("r1", "acme", Rates::All, feedback(6, None, "why so slow?"));
    flywheel.record_feedback("r1", "acme", Rates::All, feedback(4, Some(0.0), "late news"));
    flywheel.flush().unwrap();
    let stored = flywheel.store().exchange("r1").unwrap().unwrap();
    let scores: Vec<_> = stored
        .exchange
        .answers
        .iter()
        .map(|answer| (answer.model.as_str(), answer.score, answer.score_source, answer.scored_at_ms))
        .collect();
    let expected = [
        ("small", Some(1.0), Some(ScoreSource::Feedback), Some(5)),
        ("large", Some(0.75), Some(ScoreSource::Judge), Some(2)),
    ];
    assert_eq!(scores, expected);
    let texts: Vec<_> = stored.feedback.iter().filter_map(|feedback| feedback.text.as_deref()).collect();
    assert_eq!(texts, ["late news", "good", "why so slow?"], "all kept, by time");
    let counters = flywheel.counters();
    assert_eq!((counters.written, counters.queued, counters.queued_bytes), (7, 0, 0));
    assert_eq!((counters.shed, counters.failed, counters.unmatched), (0, 0, 0));
}

#[test]
fn without_a_flush_the_interval_commits() {
    let (_folder, flywheel) = open(Options { flush_interval: Duration::from_millis(1), ..Options::default() });
    flywheel.record(exchange("r1", 1));
    while flywheel.counters().written == 0 {
        std::thread::yield_now();
    }
    assert_eq!(n_exchanges(&flywheel), 1);
}

#[test]
fn feedback_that_overtakes_its_exchange_is_kept_for_it() {
    let (_folder, flywheel) = open(Options::default());
    flywheel.record_feedback("r1", "acme", Rates::All, feedback(1, Some(1.0), "good"));
    flywheel.flush().unwrap();
    flywheel.record(exchange("r1", 1));
    // In the same batch too.
    flywheel.record_feedback("r2", "acme", Rates::All, feedback(1, Some(1.0), "good"));
    flywheel.record(exchange("r2", 2));
    flywheel.flush().unwrap();
    flywheel.close();
    for id in ["r1", "r2"] {
        assert_eq!(flywheel.store().exchange(id).unwrap().unwrap().feedback.len(), 1, "{id}");
    }
    assert_eq!(flywheel.counters().unmatched, 0);
}

#[test]
fn consumers_rate_what_they_asked_for() {
    let (_folder, flywheel) = open(Options::default());
    let of = |consumer: Option<&str>| consumer.map(str::to_owned);
    for (id, consumer) in [("ours", Some("app")), ("open", None)] {
        flywheel.record(ExchangeRecord { consumer: of(consumer), ..exchange(id, 1) });
    }
    for (id, consumer, rates) in [
        ("ours", Some("other"), Rates::Own),
        ("ours", None, Rates::Own),
        ("open", Some("app"), Rates::Own),
        ("ours", Some("app"), Rates::Own),
        ("open", None, Rates::Own),
        ("ours", Some("lab"), Rates::All),
    ] {
        let record = FeedbackRecord { consumer: of(consumer), ..feedback(1, Some(1.0), "x") };
        assert!(flywheel.record_feedback(id, "acme", rates, record));
    }
    flywheel.close();
    let givers = |id: &str| {
        let stored = flywheel.store().exchange(id).unwrap().unwrap();
        stored.feedback.into_iter().map(|feedback| feedback.consumer).collect::<Vec<_>>()
    };
    assert_eq!(givers("ours"), [of(Some("app")), of(Some("lab"))]);
    assert_eq!(givers("open"), [None]);
    assert_eq!(flywheel.counters().unmatched, 3);
}

#[test]
fn strangers_and_unknown_exchanges_are_counted_not_stored() {
    let (_folder, flywheel) = open(Options::default());
    flywheel.record(exchange("r1", 1));
    flywheel.record_feedback("r1", "rival", Rates::All, feedback(1, Some(0.0), "bad"));
    flywheel.record_feedback("r2", "acme", Rates::All, feedback(1, Some(0.0), "bad"));
    flywheel.record_answer("r2", answer("small", None));
    flywheel.record_score(score(ScoreTarget::Model("nobody".into()), 1.0, 1));
    flywheel.close();
    assert_eq!((flywheel.counters().written, flywheel.counters().unmatched), (1, 4));
    let stored = flywheel.store().exchange("r1").unwrap().unwrap();
    assert_eq!((stored.feedback.len(), stored.exchange.answers[0].score), (0, None));
}

#[test]
fn a_record_that_cannot_be_stored_does_not_take_others_with_it() {
    let (_folder, flywheel) = open(Options::default());
    let mut impossible = exchange("r2", 1);
    impossible.answers.push(AnswerRecord { latency_ms: f64::NAN, ..answer("large", None) });
    for record in [exchange("r1", 1), impossible, exchange("r1", 2), exchange("r3", 1)] {
        flywheel.record(record);
    }
    flywheel.record_score(score(ScoreTarget::Served, -1.0, 1));
    flywheel.flush().unwrap();
    assert_eq!((flywheel.counters().written, flywheel.counters().failed), (2, 3));
    assert_eq!(flywheel.counters().state, WriterState::Writing);
    assert_eq!(flywheel.store().exchange("r2").unwrap(), None);
    assert_eq!(flywheel.store().exchange("r1").unwrap().unwrap().exchange.at_ms, 1, "the first one stays");
}

#[test]
fn a_record_that_the_schema_refuses_halfway_leaves_nothing_behind() {
    let (_folder, flywheel) = open(Options::default());
    let sql = "CREATE TRIGGER t BEFORE INSERT ON answer WHEN NEW.model = 'large' BEGIN SELECT RAISE(ABORT, 'no'); END";
    flywheel.store().write("test", |connection| connection.execute_batch(sql)).unwrap();
    let mut torn = exchange("r2", 1);
    torn.answers.push(answer("large", None));
    for record in [exchange("r1", 1), torn, exchange("r3", 1)] {
        flywheel.record(record);
    }
    flywheel.flush().unwrap();
    assert_eq!((flywheel.counters().written, flywheel.counters().failed), (2, 1));
    assert_eq!(flywheel.store().exchange("r2").unwrap(), None);
    assert_eq!(flywheel.store().stats(&Filter::default()).unwrap().n_answers, 2);
}

#[test]
fn a_full_queue_sheds_and_counts_while_another_process_holds_the_lock() {
    let (_folder, flywheel) = open(Options { queue_rows: 10, ..Options::default() });
    let n_shed = flywheel.store().write("test", |connection| {
        let lock = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for i in 0..25 {
            flywheel.record(exchange(&format!("r{i}"), 1));
        }
        let n_shed = flywheel.counters().shed;
        lock.commit()?;
        Ok(n_shed)
    });
    assert_eq!(n_shed.unwrap(), 15);
    flywheel.flush().unwrap();
    assert_eq!((n_exchanges(&flywheel), flywheel.counters().written), (10, 10));
    assert!(flywheel.store().exchange("r9").unwrap().is_some(), "the first ones stay");
}

/// Fills a database that may take 1 MiB until the writer gives up.
fn fill_up(retry_interval: Duration) -> (tempfile::TempDir, Flywheel, u64) {
    let max_bytes = Some(1 << 20);
    let (folder, flywheel) = open(Options { max_bytes, retry_interval, ..Options::default() });
    for i in 0.. {
        let mut record = exchange(&format!("r{i}"), i);
        record.answers[0].output = Some("x".repeat(32 << 10));
        flywheel.record(record);
        if let Err(error) = flywheel.flush() {
            assert!(matches!(error, FlywheelError::Suspended(_)), "{error}");
            assert!(error.to_string().contains("weirgate flywheel prune"), "{error}");
            break;
        }
    }
    let n_written = flywheel.counters().written;
    assert!(matches!(flywheel.counters().state, WriterState::Suspended { .. }));
    assert!((16..32).contains(&n_written), "{n_written} of 32 KiB in 1 MiB");
    (folder, flywheel, n_written)
}

#[test]
fn a_full_disk_suspends_the_writer_which_resumes_by_itself() {
    let (_folder, flywheel, n_written) = fill_up(Duration::from_millis(1));
    flywheel.record(exchange("later", i64::MAX));
    assert_eq!(n_exchanges(&flywheel), n_written, "reading goes on");
    assert_eq!(flywheel.store().integrity().unwrap(), Vec::<String>::new());
    let n_deleted = flywheel.store().prune(None, Some(512 << 10)).unwrap().n_deleted;
    while flywheel.counters().queued > 0 {
        std::thread::yield_now();
    }
    assert_eq!(flywheel.counters().state, WriterState::Writing);
    assert_eq!((flywheel.counters().written, flywheel.counters().shed), (n_written + 2, 0));
    assert_eq!(n_exchanges(&flywheel), n_written + 2 - n_deleted);
}

#[test]
fn closing_on_a_full_disk_counts_what_is_lost() {
    let (_folder, flywheel, n_written) = fill_up(Duration::from_secs(3600));
    flywheel.record(exchange("later", 1));
    flywheel.close();
    let counters = flywheel.counters();
    assert_eq!((counters.written, counters.shed, counters.queued), (n_written, 2, 0));
    assert_eq!(counters.state, WriterState::Closed);
}

#[test]
fn a_deleted_file_is_made_anew() {
    let (folder, flywheel) = open(Options::default());
    flywheel.record(exchange("r1", 1));
    flywheel.flush().unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    flywheel.record(exchange("r2", 1));
    flywheel.flush().unwrap();
    assert_eq!(flywheel.store().exchange("r1").unwrap(), None);
    assert!(flywheel.store().exchange("r2").unwrap().is_some());
    assert_eq!(flywheel.store().integrity().unwrap(), Vec::<String>::new());
}

#[test]
fn a_file_that_became_unreadable_suspends_the_writer_until_it_is_moved_away() {
    let (_folder, flywheel) = open(Options::default());
    let path = flywheel.store().path().to_path_buf();
    // Another file in its place: the writer must notice, not write to the one it still has open.
    let wreck = path.with_extension("wreck");
    std::fs::write(&wreck, [b'x'; 8192]).unwrap();
    std::fs::rename(&wreck, &path).unwrap();
    flywheel.record(exchange("r1", 1));
    let error = flywheel.flush().unwrap_err().to_string();
    assert!(error.contains("not a readable database") && error.contains("Move the file away"), "{error}");
    std::fs::rename(&path, &wreck).unwrap();
    flywheel.flush().unwrap();
    assert!(flywheel.store().exchange("r1").unwrap().is_some(), "nothing was lost meanwhile");
}

#[test]
fn redaction_happens_before_the_queue() {
    let (_folder, flywheel) = open(Options { redact: true, ..Options::default() });
    flywheel.record(exchange("r1", 1));
    flywheel.record_answer("r1", answer("large", None));
    flywheel.record_feedback("r1", "acme", Rates::All, feedback(1, Some(1.0), "my name is Alice"));
    flywheel.flush().unwrap();
    let stored = flywheel.store().exchange("r1").unwrap().unwrap();
    assert_eq!((&stored.exchange.messages, &stored.feedback[0].text), (&None, &None));
    assert!(stored.exchange.answers.iter().all(|answer| answer.output.is_none()));
    assert_eq!(stored.exchange.features, exchange("r1", 1).features);
}

#[test]
fn close_writes_the_rest_and_so_does_the_last_clone() {
    let hour = Options { flush_interval: Duration::from_secs(3600), ..Options::default() };
    let (_folder, flywheel) = open(hour);
    flywheel.record(exchange("r1", 1));
    flywheel.close();
    flywheel.record(exchange("r2", 1));
    assert!(matches!(flywheel.flush(), Err(FlywheelError::Closed)));
    assert_eq!((n_exchanges(&flywheel), flywheel.counters().shed), (1, 1));

    let (_folder, flywheel) = open(hour);
    let (clone, store) = (flywheel.clone(), flywheel.store().clone());
    drop(flywheel);
    clone.record(exchange("r1", 1));
    drop(clone);
    assert!(store.exchange("r1").unwrap().is_some());
}

#[test]
fn many_threads_lose_nothing() {
    let (_folder, flywheel) = open(Options { flush_rows: 7, ..Options::default() });
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let flywheel = &flywheel;
            scope.spawn(move || {
                for i in 0..250 {
                    flywheel.record(exchange(&format!("{thread}-{i}"), i));
                    if i % 50 == 0 {
                        flywheel.flush().unwrap();
                    }
                }
            });
        }
    });
    flywheel.flush().unwrap();
    assert_eq!((n_exchanges(&flywheel), flywheel.counters().written), (2000, 2000));
}
