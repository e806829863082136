//! What the flywheel stores, as the rest of the program and the JSONL files see it. Plain data: no SQL here.
//!
//! Times are Unix milliseconds, durations milliseconds, money US dollars, scores 0 (useless) to 1 (perfect).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::text_enum::text_enum;

/// One LLM request with every answer known when it is recorded. Later ones arrive through `Flywheel::record_answer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExchangeRecord {
    /// The request id; unique in the database.
    pub id: String,
    /// When the request arrived.
    pub at_ms: i64,
    pub tenant: String,
    pub route: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    pub mode: Mode,
    pub prompt_hash: String,
    /// The request's `messages` as sent. `None` when redacted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<JsonText>,
    /// The router's features of the prompt, opaque here; base64 in JSON. Kept when the text is redacted, so that
    /// training stays possible without it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "base64_bytes")]
    pub features: Option<Vec<u8>>,
    /// Which feature extractor the decision went by; it made `features`, if they are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features_version: Option<u32>,
    pub stream: bool,
    /// `None` when the client named the model itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionRecord>,
    #[serde(default)]
    pub answers: Vec<AnswerRecord>,
}

/// Why this model answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    pub router: String,
    /// Id of the router version; `None` when no trained router took part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_version: Option<i64>,
    /// The model chosen first; a fallback may have answered instead, see the answers.
    pub chosen: String,
    /// Whatever the router has to say. Stored also when redacting, so it must not quote the prompt.
    pub reasons: JsonText,
}

/// A JSON value as its text, because parsing and building one is nothing the request path should pay for; the value itself in JSON
/// lines.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonText(pub String);

/// One attempt at an answer by one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerRecord {
    pub role: Role,
    pub model: String,
    pub provider: String,
    /// The answer's text. `None` when redacted or when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    pub outcome: AnswerOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// From sending the request to the last byte of the answer.
    pub latency_ms: f64,
    /// From sending the request to the first token; streams only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// 0 to 1; present exactly when `score_source` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_source: Option<ScoreSource>,
    /// When the score was given. A score without a time is dated when it is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scored_at_ms: Option<i64>,
}

/// A score that arrived after its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreRecord {
    pub exchange_id: String,
    pub target: ScoreTarget,
    /// 0 to 1.
    pub score: f64,
    pub source: ScoreSource,
    /// When it was given; an older score never replaces a newer one.
    pub at_ms: i64,
}

/// Which answer of the exchange a score is about.
#[derive(Clone, Debug, PartialEq)]
pub enum ScoreTarget {
    /// The one the client got: the last answer whose role is `served`.
    Served,
    /// The last answer of this model.
    Model(String),
}

/// Whose answers the giver of feedback may rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rates {
    /// Those to requests of the same consumer, or of none if it is none.
    Own,
    All,
}

/// What a user said about an answer. A score becomes the score of the served answer; every entry is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeedbackRecord {
    pub at_ms: i64,
    /// 0 to 1; a thumb is 0 or 1; `None` for a comment alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// `None` when redacted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
}

/// Everything known about one exchange; one line of an export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredExchange {
    #[serde(flatten)]
    pub exchange: ExchangeRecord,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feedback: Vec<FeedbackRecord>,
}

text_enum! {
    /// How the request was treated.
    Mode {
        /// One model answered the client.
        Serve = "serve",
        /// Every candidate was asked, to learn from all of them.
        Training = "training",
    }
}

text_enum! {
    /// Why this model was asked.
    Role {
        /// Its answer went, or was meant to go, to the client.
        Served = "served",
        /// The baseline's parallel answer, which the client never sees.
        Shadow = "shadow",
        /// One of many in training mode.
        Candidate = "candidate",
    }
}

text_enum! {
    /// How the attempt ended.
    AnswerOutcome {
        Ok = "ok",
        /// The provider refused, failed or was too slow.
        Failed = "failed",
        /// The client went away.
        Cancelled = "cancelled",
        /// The answer stopped before its end.
        Cut = "cut",
    }
}

text_enum! {
    /// Who gave the score.
    ScoreSource {
        /// The evaluate endpoint.
        Evaluate = "evaluate",
        /// A user.
        Feedback = "feedback",
        /// A judge model.
        Judge = "judge",
    }
}

impl ExchangeRecord {
    /// The first field that cannot be stored, as a sentence; nothing that passes is refused by the schema.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.id.is_empty() {
            return Err("`id` is empty; it must be the request id".into());
        }
        self.answers.iter().try_for_each(AnswerRecord::check)
    }

    /// Drops every text a user or a model wrote.
    pub(super) fn redact(&mut self) {
        self.messages = None;
        self.answers.iter_mut().for_each(AnswerRecord::redact);
    }

    /// Roughly the memory this record holds, bytes.
    pub(super) fn weight(&self) -> usize {
        let text = self.id.len() + self.tenant.len() + self.route.len() + self.prompt_hash.len();
        let reasons = self.decision.as_ref().map_or(0, |decision| decision.reasons.0.len());
        let answers: usize = self.answers.iter().map(AnswerRecord::weight).sum();
        size_of::<Self>()
            + text
            + reasons
            + answers
            + self.features.as_ref().map_or(0, Vec::len)
            + self.messages.as_ref().map_or(0, |messages| messages.0.len())
    }
}

impl AnswerRecord {
    pub(super) fn check(&self) -> Result<(), String> {
        let model = &self.model;
        let amounts = [
            ("latency_ms", Some(self.latency_ms)),
            ("first_token_ms", self.first_token_ms),
            ("cost_usd", self.cost_usd),
        ];
        for (field, value) in amounts {
            if let Some(value) = value.filter(|value| !value.is_finite() || *value < 0.0) {
                return Err(format!("`{field}` of the answer by `{model}` is {value}; it must be a number from 0 up"));
            }
        }
        if self.score.is_some() != self.score_source.is_some() {
            return Err(format!("the answer by `{model}` must have both `score` and `score_source`, or neither"));
        }
        self.score.map_or(Ok(()), check_score)
    }

    pub(super) fn redact(&mut self) {
        self.output = None;
    }

    pub(super) fn weight(&self) -> usize {
        let text = self.model.len() + self.provider.len();
        size_of::<Self>()
            + text
            + self.output.as_ref().map_or(0, String::len)
            + self.error.as_ref().map_or(0, String::len)
    }
}

impl FeedbackRecord {
    pub(super) fn check(&self) -> Result<(), String> {
        self.score.map_or(Ok(()), check_score)
    }

    pub(super) fn redact(&mut self) {
        self.text = None;
    }

    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.text.as_ref().map_or(0, String::len)
    }
}

pub(super) fn check_score(score: f64) -> Result<(), String> {
    // NaN is in no range, so it is refused here too.
    if (0.0..=1.0).contains(&score) { Ok(()) } else { Err(format!("`score` is {score}; it must be from 0 to 1")) }
}

impl JsonText {
    /// The value. What clients write and a stricter reader refuses must not cost the record, nor those after it: half of a
    /// surrogate pair becomes U+FFFD, and a text with a number that no number can hold stays a text.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0)
            .or_else(|_| serde_json::from_str(&without_half_pairs(&self.0)))
            .unwrap_or_else(|_| Value::String(self.0.clone()))
    }
}

fn without_half_pairs(text: &str) -> String {
    let unit = |text: &str| {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let n_bytes = match (unit(rest), rest.get(6..).and_then(unit)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                out.push_str("\\ufffd");
                rest = &rest[6..];
                continue;
            }
            // The backslash and what it escapes.
            _ => rest.char_indices().nth(2).map_or(rest.len(), |(end, _)| end),
        };
        out.push_str(&rest[..n_bytes]);
        rest = &rest[n_bytes..];
    }
    out.push_str(rest);
    out
}

impl Serialize for JsonText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(|value| JsonText(value.to_string()))
    }
}

/// Bytes as base64 in JSON: an array of numbers would be four times as long.
mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_some(&STANDARD.encode(bytes)),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| STANDARD.decode(text).map_err(|error| D::Error::custom(format!("`features`: {error}"))))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answer, exchange};
    use super::*;

    #[test]
    fn text_that_a_stricter_reader_refuses_is_mended_or_stays_text() {
        let value = |text: &str| JsonText(text.to_owned()).value();
        for (text, expected) in [
            (r#"["\ud83d\ude00"]"#, "😀"),
            (r#"["a\ud83d b"]"#, "a\u{fffd} b"),
            (r#"["\ude00\ud83d"]"#, "\u{fffd}\u{fffd}"),
            (r#"["\\ud83d\ud83dx\n"]"#, "\\ud83d\u{fffd}x\n"),
        ] {
            assert_eq!(value(text)[0], expected, "{text}");
        }
        assert_eq!(value("[1e999]"), "[1e999]");
    }

    #[test]
    fn values_the_schema_would_refuse_are_named() {
        let refused = |change: fn(&mut ExchangeRecord)| {
            let mut record = exchange("r1", 1);
            change(&mut record);
            record.check().unwrap_err()
        };
        assert!(exchange("r1", 1).check().is_ok());
        assert!(refused(|r| r.id.clear()).contains("`id`"));
        assert!(refused(|r| r.answers[0].latency_ms = f64::NAN).contains("`latency_ms` of the answer by `small`"));
        assert!(refused(|r| r.answers[0].cost_usd = Some(-1.0)).contains("`cost_usd`"));
        assert!(refused(|r| r.answers[0].score = Some(0.5)).contains("`score_source`"));
        assert!(refused(|r| r.answers[0] = answer("small", Some(1.5))).contains("1.5"));
        assert!(check_score(f64::NAN).is_err());
    }

    #[test]
    fn redaction_removes_text_and_keeps_what_training_needs() {
        let mut record = exchange("r1", 1);
        let full = record.clone();
        record.redact();
        assert_eq!(record.messages, None);
        assert_eq!(record.answers[0].output, None);
        assert_eq!(record.features, full.features);
        assert_eq!(record.prompt_hash, full.prompt_hash);
        assert!(record.weight() < full.weight());
    }

    #[test]
    fn json_form_is_flat_and_features_are_base64() {
        let stored = StoredExchange { exchange: exchange("r1", 1), feedback: Vec::new() };
        let json = serde_json::to_value(&stored).unwrap();
        assert_eq!(json["id"], "r1");
        assert_eq!(json["mode"], "serve");
        assert_eq!(json["features"], "AQID");
        assert_eq!(json["answers"][0]["outcome"], "ok");
        assert_eq!(serde_json::from_value::<StoredExchange>(json).unwrap(), stored);
    }
}
