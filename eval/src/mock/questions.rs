//! The question file: JSON lines with `id`, `question` and `domain`; other fields are ignored. The mock draws scores by the
//! domain, the challenge uses it as the true label. Neither ever sends the domain to a gateway.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// One question with its true domain.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Question {
    pub id: String,
    pub question: String,
    pub domain: String,
}

/// Reads a question file; errors name file, line and what is wrong.
pub fn load(path: &Path) -> Result<Vec<Question>> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("question file {}: cannot be read; eval/questions has the shipped ones", path.display())
    })?;
    parse(&text).with_context(|| format!("question file {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Question>> {
    let (mut ids, mut texts) = (HashSet::new(), HashSet::new());
    let mut questions = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let n = i + 1;
        let question: Question = serde_json::from_str(line)
            .with_context(|| format!("line {n}: needs one JSON object with string fields id, question and domain"))?;
        if question.question.trim().is_empty() {
            bail!("line {n}: field question is empty");
        }
        if !ids.insert(question.id.clone()) {
            bail!("line {n}: field id {:?} was used before; ids must be unique", question.id);
        }
        if !texts.insert(question.question.trim().to_string()) {
            bail!("line {n}: field question has the same text as an earlier one; /v1/evaluate finds questions by text");
        }
        questions.push(question);
    }
    if questions.is_empty() {
        bail!("has no questions");
    }
    Ok(questions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_fields_and_blank_lines_are_fine() {
        let questions = parse("{\"id\":\"a\",\"question\":\"1+1?\",\"domain\":\"math\",\"lang\":\"en\"}\n\n").unwrap();
        assert_eq!(questions, [Question { id: "a".into(), question: "1+1?".into(), domain: "math".into() }]);
    }

    #[test]
    fn errors_name_the_line_and_the_field() {
        let good = "{\"id\":\"a\",\"question\":\"1+1?\",\"domain\":\"math\"}\n";
        for (text, part) in [
            (format!("{good}{{\"id\":\"b\"}}"), "line 2: needs one JSON object"),
            (format!("{good}{good}"), "line 2: field id \"a\""),
            (format!("{good}{}", good.replace("\"a\"", "\"b\"")), "line 2: field question has the same text"),
            (good.replace("1+1?", " "), "line 1: field question is empty"),
            (String::new(), "has no questions"),
        ] {
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }
}
