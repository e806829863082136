//! What a reader has to know before the numbers drawn from some rows: what failed, and what has no price.

use std::collections::BTreeSet;

use super::protocol::Row;
use crate::mock::world::World;

/// How many of the `what` failed, and why the first did; `None` where none did.
pub fn failures(what: &str, rows: &[Row]) -> Option<String> {
    let mut errors = rows.iter().filter_map(|row| row.error.as_ref());
    let first = errors.next()?;
    Some(format!("{} of {} {what} failed; the first: {first}", errors.count() + 1, rows.len()))
}

/// Whether what is left measures the failure, not the gateway.
pub fn is_mostly_failed(rows: &[Row]) -> bool {
    rows.iter().filter(|row| row.error.is_some()).count() * 2 > rows.len()
}

/// How many of the `what` have no price, and why; `None` where all have one.
pub fn unpriced(what: &str, rows: &[Row], world: &World) -> Option<String> {
    let unpriced = || rows.iter().filter(|row| row.cost.is_none());
    let strangers: Vec<&str> =
        unpriced().map(|row| row.model.as_str()).filter(|model| world.model(model).is_none()).collect();
    let mut reasons = Vec::new();
    if !strangers.is_empty() {
        let names: BTreeSet<String> = strangers.iter().map(|name| format!("{name:?}")).collect();
        let names = names.into_iter().take(5).collect::<Vec<_>>().join(", ");
        reasons.push(format!("{} name a model that the world (--world) does not have ({names})", strangers.len()));
    }
    let n_without_usage = unpriced().count() - strangers.len();
    if n_without_usage > 0 {
        reasons.push(format!("{n_without_usage} have no usage"));
    }
    (!reasons.is_empty()).then(|| {
        format!(
            "{} of {} {what} have no cost: {}. What rests on it is left out.",
            unpriced().count(),
            rows.len(),
            reasons.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(model: &str, cost: Option<f64>, error: Option<&str>) -> Row {
        Row {
            phase: "verify".into(),
            id: "q".into(),
            domain: String::new(),
            model: model.into(),
            evaluated: Some(1.0),
            latency_ms: 1.0,
            first_token_ms: 1.0,
            cost,
            claimed_domain: None,
            error: error.map(str::to_string),
        }
    }

    #[test]
    fn failures_are_counted_with_the_first_reason() {
        let rows = [row("m", Some(0.0), None), row("m", Some(0.0), Some("cut")), row("m", Some(0.0), Some("late"))];
        assert_eq!(failures("questions", &rows).unwrap(), "2 of 3 questions failed; the first: cut");
        assert!(is_mostly_failed(&rows) && !is_mostly_failed(&rows[..2]));
        assert_eq!(failures("questions", &rows[..1]), None);
    }

    #[test]
    fn answers_without_a_price_are_counted_by_reason() {
        let world = World::load(None).unwrap();
        let rows = [row("auto", None, None), row("qwen-max", None, None), row("qwen-max", Some(0.1), None)];
        let told = unpriced("answers", &rows, &world).unwrap();
        assert!(told.starts_with("2 of 3 answers have no cost: 1 name a model"), "{told}");
        assert!(told.contains("(\"auto\"), 1 have no usage."), "{told}");
        assert_eq!(unpriced("answers", &rows[2..], &world), None);
    }
}
