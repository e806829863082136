//! The ladder: which parts of the pipeline each step asks the server for.

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// The rungs that have names. Each adds one part to the one before it, except `lexical`, which is for reference only, and
/// `default`, which leaves the choice to the knowledge base.
const NAMED: [(&str, &str); 9] = [
    ("higress", "dense"),
    ("lexical", "lexical"),
    ("rrf", "dense+lexical+rrf"),
    ("fusion", "dense+lexical+weighted"),
    ("hop", "dense+lexical+weighted+hop"),
    ("rerank", "dense+lexical+weighted+hop+rerank"),
    ("correct", "dense+lexical+weighted+hop+rerank+correct"),
    ("compress", "dense+lexical+weighted+hop+rerank+correct+compress"),
    ("default", ""),
];

/// The ladder as it is run if nothing else is asked for.
pub const LADDER: &str = "higress,lexical,rrf,fusion,hop,rerank,correct,compress";

pub const SWITCHES: [&str; 6] = ["dense", "lexical", "hop", "rerank", "correct", "compress"];
const FUSIONS: [&str; 2] = ["rrf", "weighted"];

#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub name: String,
    /// The parts that are on; none for the defaults of the knowledge base.
    pub parts: Vec<&'static str>,
}

impl Step {
    /// A rung's name, or `NAME=PART+PART…` for any other combination.
    pub fn parse(text: &str) -> Result<Step> {
        let text = text.trim();
        let (name, parts) = match text.split_once('=') {
            Some(own) => own,
            None => match NAMED.iter().find(|(name, _)| *name == text) {
                Some(named) => *named,
                None => bail!(
                    "--steps {text:?}: the steps are {}, or NAME=PART+PART… of {}, {}",
                    NAMED.map(|(name, _)| name).join(", "),
                    SWITCHES.join(", "),
                    FUSIONS.join(", ")
                ),
            },
        };
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if !is_name {
            bail!("--steps {text:?}: the step's name becomes part of keys; use letters, digits, '-' and '_'");
        }
        let known = |part: &str| SWITCHES.iter().chain(&FUSIONS).copied().find(|known| *known == part);
        let mut taken = Vec::new();
        for part in parts.split('+').filter(|part| !part.is_empty()) {
            match known(part) {
                Some(part) => taken.push(part),
                None => bail!(
                    "--steps {text:?}: no part {part:?}; they are {}, {}",
                    SWITCHES.join(", "),
                    FUSIONS.join(", ")
                ),
            }
        }
        Ok(Step { name: name.to_string(), parts: taken })
    }

    /// The `steps` object of the search request; None leaves it out. Every switch is sent, as a server's default may be on; only what
    /// the server does not know is left out where it is off.
    pub fn body(&self, unknown: &[&str]) -> Option<Value> {
        if self.parts.is_empty() {
            return None;
        }
        let sent = SWITCHES.iter().filter(|switch| self.has(switch) || !unknown.contains(switch));
        let mut body: Value = sent.map(|switch| (switch.to_string(), json!(self.has(switch)))).collect();
        if let Some(fusion) = FUSIONS.into_iter().find(|fusion| self.has(fusion)) {
            body["fusion"] = json!(fusion);
        }
        Some(body)
    }

    pub fn has(&self, part: &str) -> bool {
        self.parts.contains(&part)
    }

    /// Only shown beside the ladder, never the step another one is compared with.
    pub fn is_reference(&self) -> bool {
        self.name == "lexical"
    }

    /// Whether a server's refusal is about one of this step's parts.
    pub fn is_named_in(&self, message: &str) -> bool {
        let message = message.to_lowercase();
        let is_named = |part: &&str| match *part {
            "rrf" | "weighted" => message.contains("fusion"),
            "dense" => message.contains("embed"),
            "correct" => message.contains("web search"),
            _ => false,
        };
        self.parts.iter().any(|part| message.contains(part) || is_named(part))
    }
}

/// Steps of a comma-separated list, each name once.
pub fn parse_all(names: &[String]) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for name in names.iter().filter(|name| !name.trim().is_empty()) {
        let step = Step::parse(name)?;
        if steps.iter().any(|known| known.name == step.name) {
            bail!("--steps: {:?} stands twice", step.name);
        }
        steps.push(step);
    }
    if steps.is_empty() {
        bail!("--steps is empty: nothing would be measured");
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rung_says_all_switches() {
        for (name, on, fusion) in [
            ("higress", vec!["dense"], None),
            ("lexical", vec!["lexical"], None),
            ("rrf", vec!["dense", "lexical"], Some("rrf")),
            ("compress", SWITCHES.to_vec(), Some("weighted")),
        ] {
            let body = Step::parse(name).unwrap().body(&[]).unwrap();
            for switch in SWITCHES {
                assert_eq!(body[switch], on.contains(&switch), "{name} {switch}");
            }
            assert_eq!(body.get("fusion").and_then(Value::as_str), fusion, "{name}");
        }
        assert_eq!(Step::parse("default").unwrap().body(&[]), None);
        let known = Step::parse("rerank").unwrap().body(&["correct", "rerank"]).unwrap();
        assert_eq!((known.get("correct"), &known["rerank"], &known["compress"]), (None, &json!(true), &json!(false)));
    }

    #[test]
    fn each_rung_of_the_ladder_keeps_what_the_one_before_has() {
        let steps = parse_all(&LADDER.split(',').map(str::to_string).collect::<Vec<_>>()).unwrap();
        let ladder: Vec<&Step> = steps.iter().filter(|step| !step.is_reference()).collect();
        for pair in ladder.windows(2) {
            let switches = SWITCHES.iter().filter(|switch| pair[0].has(switch));
            assert!(switches.into_iter().all(|switch| pair[1].has(switch)), "{pair:?}");
        }
    }

    #[test]
    fn own_steps_and_mistakes() {
        let own = Step::parse("no-hop=dense+lexical+weighted+rerank").unwrap();
        assert!(own.has("rerank") && !own.has("hop") && own.name == "no-hop");
        let strings = |text: &str| text.split(',').map(str::to_string).collect::<Vec<_>>();
        for (text, part) in [
            ("best", "the steps are"),
            ("x=dense+magic", "no part \"magic\""),
            ("a b=dense", "name"),
            ("hop,hop", "twice"),
            ("", "empty"),
        ] {
            let error = parse_all(&strings(text)).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn refusals_are_told_from_other_errors() {
        let rerank = Step::parse("rerank").unwrap();
        assert!(rerank.is_named_in("steps.rerank: the model is not installed"));
        assert!(rerank.is_named_in("Reranker missing") && rerank.is_named_in("steps.fusion"));
        assert!(!rerank.is_named_in("query: must not be empty"));
        assert!(!Step::parse("lexical").unwrap().is_named_in("steps.rerank"));
    }
}
