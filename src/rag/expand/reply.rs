//! What a model answered, read tolerantly: lists in any of the forms that models choose, single lines with labels
//! before them. Pure; never fails on any text, but may find nothing.

/// Longer lines are explanations and not queries.
const MAX_QUERY_CHARS: usize = 400;

/// The answer without the thinking before it and the fence around it.
pub fn clean(reply: &str) -> &str {
    let mut text = reply.trim();
    for end in ["</think>", "</thinking>", "</reasoning>"] {
        if let Some(at) = text.rfind(end) {
            text = text[at + end.len()..].trim();
        }
    }
    // Thinking that was cut off before its end has no answer behind it.
    if ["<think>", "<thinking>", "<reasoning>"].iter().any(|start| text.starts_with(start)) {
        return "";
    }
    if let Some(inside) = text.strip_prefix("```") {
        let inside = inside.split_once('\n').map_or("", |(_language, rest)| rest);
        text = inside.rsplit_once("```").map_or(inside, |(before, _)| before).trim();
    }
    text
}

/// At most `limit` different queries: from a JSON list, an object that holds one, or lines with numbers or bullets.
pub fn list(reply: &str, limit: usize) -> Vec<String> {
    let text = clean(reply);
    let items = json_list(text).unwrap_or_else(|| text.lines().map(str::to_string).collect());
    let mut found: Vec<String> = Vec::new();
    for item in items {
        if found.len() == limit {
            break;
        }
        let query = strip_marks(&item);
        let known = found.iter().any(|other| other.to_lowercase() == query.to_lowercase());
        if !known && is_query(query) {
            found.push(query.to_string());
        }
    }
    found
}

/// The first line that says something; none when the model gave only a lead-in or an essay.
pub fn line(reply: &str) -> Option<String> {
    let text = clean(reply);
    if let Some(single) = json_string(text) {
        return Some(strip_marks(&single).to_string()).filter(|query| is_query(query));
    }
    text.lines().map(strip_marks).find(|line| is_query(line)).map(str::to_string)
}

fn json_list(text: &str) -> Option<Vec<String>> {
    let value = json(text)?;
    let list = match &value {
        serde_json::Value::Array(list) => list,
        serde_json::Value::Object(object) => object.values().find_map(serde_json::Value::as_array)?,
        _ => return None,
    };
    let text_of = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Object(object) => object.values().find_map(|v| v.as_str()).map(str::to_string),
        _ => None,
    };
    Some(list.iter().filter_map(text_of).collect())
}

fn json_string(text: &str) -> Option<String> {
    match json(text)? {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Object(object) => object.values().find_map(|v| v.as_str()).map(str::to_string),
        serde_json::Value::Array(list) => list.first()?.as_str().map(str::to_string),
        _ => None,
    }
}

/// The text as JSON, or what stands between its first and last bracket: models like to introduce their JSON.
fn json(text: &str) -> Option<serde_json::Value> {
    if let Ok(value) = serde_json::from_str(text) {
        return Some(value);
    }
    [('[', ']'), ('{', '}')].into_iter().find_map(|(open, close)| {
        let inside = text.get(text.find(open)?..=text.rfind(close)?)?;
        serde_json::from_str(inside).ok()
    })
}

/// Without number, bullet, label and quotation marks.
fn strip_marks(line: &str) -> &str {
    let mut text = line.trim();
    text = text.trim_start_matches(['-', '*', '•', '·', '>', '#', '–']).trim_start();
    text = strip_number(text);
    text = text.trim_matches(['*', '`', '_']).trim();
    if let Some((label, rest)) = text.split_once([':', '：']) {
        let label = strip_number(label.trim_matches(['*', ' ', '_'])).to_lowercase();
        let known = LABELS.iter().any(|known| label.trim_end_matches(|c: char| c.is_numeric() || c == ' ') == *known);
        if known && !rest.trim().is_empty() {
            text = rest.trim().trim_matches('*').trim();
        }
    }
    const PAIRS: [(char, char); 5] = [('"', '"'), ('\'', '\''), ('\u{201c}', '\u{201d}'), ('「', '」'), ('`', '`')];
    let text = text.trim_end_matches(',');
    for (open, close) in PAIRS {
        if let Some(inside) = text.strip_prefix(open).and_then(|text| text.strip_suffix(close)) {
            return inside.trim();
        }
    }
    text
}

fn strip_number(text: &str) -> &str {
    let rest = text.trim_start_matches(['(', 'Q', 'q']).trim_start_matches(|c: char| c.is_ascii_digit());
    let numbered = rest.len() < text.len() && text.contains(|c: char| c.is_ascii_digit());
    match rest.strip_prefix([')', '.', ':', '、', '．', '：']) {
        // "3.5 million people" is no numbered line.
        Some(after) if numbered && !after.starts_with(|c: char| c.is_ascii_digit()) => after.trim_start(),
        _ => text,
    }
}

/// What models write before their answer.
const LABELS: [&str; 22] = [
    "query",
    "queries",
    "question",
    "sub-question",
    "subquestion",
    "standalone question",
    "standalone query",
    "rewritten",
    "rewritten question",
    "rewritten query",
    "search query",
    "answer",
    "output",
    "passage",
    "keywords",
    "result",
    "问题",
    "改写",
    "改写后的问题",
    "查询",
    "独立问题",
    "关键词",
];

fn is_query(text: &str) -> bool {
    let says_something = text.chars().any(char::is_alphanumeric);
    // "Here are three queries:" leads in; so does "Sure!".
    let leads_in = text.ends_with([':', '：'])
        || ["sure", "sure!", "certainly!", "当然", "好的"].contains(&text.to_lowercase().as_str());
    says_something && !leads_in && text.chars().count() <= MAX_QUERY_CHARS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_in_any_form() {
        let expected = ["who directed Jaws", "when was Jaws made"];
        for reply in [
            "[\"who directed Jaws\", \"when was Jaws made\"]",
            "```json\n{\"queries\": [\"who directed Jaws\", \"when was Jaws made\"]}\n```",
            "Here you are: {\"questions\":[{\"q\":\"who directed Jaws\"},{\"q\":\"when was Jaws made\"}]} Enjoy!",
            "1. who directed Jaws\n2. when was Jaws made",
            "Sure!\nHere are the queries:\n\n- \"who directed Jaws\"\n- Who directed Jaws\n* when was Jaws made\n",
            "<think>1. a\n2. b</think>\n(1) who directed Jaws\n(2) when was Jaws made",
            "Q1: who directed Jaws\nQ2: when was Jaws made",
            "**Query 1:** who directed Jaws\n**Query 2:** when was Jaws made",
            "1、who directed Jaws\n2、when was Jaws made\n3、third",
        ] {
            assert_eq!(list(reply, 2), expected, "{reply}");
        }
        assert!(list("", 3).is_empty() && list("<think>endless", 3).is_empty() && list("---\n***", 3).is_empty());
        assert_eq!(list("3.5 million people live where", 3), ["3.5 million people live where"]);
    }

    #[test]
    fn single_lines() {
        for (reply, expected) in [
            ("Standalone question: Who directed Jaws?", Some("Who directed Jaws?")),
            ("\"Who directed Jaws?\"", Some("Who directed Jaws?")),
            ("Sure, here it is:\n\nWho directed Jaws?\nIt was", Some("Who directed Jaws?")),
            ("{\"question\": \"Who directed Jaws?\"}", Some("Who directed Jaws?")),
            ("改写后的问题：谁导演了《大白鲨》？", Some("谁导演了《大白鲨》？")),
            ("", None),
            ("```\n```", None),
        ] {
            assert_eq!(line(reply).as_deref(), expected, "{reply}");
        }
        assert_eq!(line(&"long ".repeat(100)), None);
    }

    proptest::proptest! {
        #[test]
        fn any_reply_can_be_read(reply in "(\\PC|[\\n`\"\\[\\]{}:1-3.<>-]){0,120}", limit in 0_usize..5) {
            proptest::prop_assert!(list(&reply, limit).len() <= limit);
            let _ = line(&reply);
        }
    }
}
