//! Reads a judge's reply: a JSON object with a category, else a letter in parentheses. Whatever else it says is an error.

use anyhow::{Result, bail};
use serde_json::Value;

use super::Category;
use crate::http::excerpt;

#[derive(Debug, PartialEq)]
pub struct Vote {
    pub category: Category,
    pub reason: String,
}

pub fn parse(reply: &str) -> Result<Vote> {
    if let Some(object) = first_object(reply).filter(|object| object.get("category").is_some()) {
        let named = object["category"].as_str().and_then(category_of);
        return match named {
            Some(category) => Ok(Vote { category, reason: object["reason"].as_str().unwrap_or_default().to_string() }),
            None => bail!("the judge's category {} is none of A to E", object["category"]),
        };
    }
    let mut letters: Vec<char> = letters_in_parentheses(reply).collect();
    letters.dedup();
    match letters.as_slice() {
        [letter] => match Category::from_letter(*letter) {
            Some(category) => Ok(Vote { category, reason: reply.trim().to_string() }),
            None => bail!("the judge's category ({letter}) is none of A to E"),
        },
        [] => bail!("no category in the judge's reply: {}", excerpt(reply.as_bytes())),
        _ => bail!("several categories in the judge's reply: {}", excerpt(reply.as_bytes())),
    }
}

/// `C`, `(C)`, `c`, or `C - …`: one letter standing alone at the beginning.
fn category_of(text: &str) -> Option<Category> {
    let mut characters = text.trim().trim_start_matches('(').chars();
    let letter = characters.next()?;
    let stands_alone = characters.next().is_none_or(|next| !next.is_alphanumeric());
    Category::from_letter(letter).filter(|_| stands_alone)
}

/// The first JSON object in a text that may have prose or code fences around it.
fn first_object(text: &str) -> Option<Value> {
    text.match_indices('{').find_map(|(at, _)| {
        let mut values = serde_json::Deserializer::from_str(text.get(at..)?).into_iter::<Value>();
        values.next()?.ok().filter(Value::is_object)
    })
}

fn letters_in_parentheses(text: &str) -> impl Iterator<Item = char> {
    let characters: Vec<char> = text.chars().collect();
    let letter = |three: &[char]| match three {
        ['(', letter, ')'] if letter.is_ascii_alphabetic() => Some(letter.to_ascii_uppercase()),
        _ => None,
    };
    characters.windows(3).filter_map(letter).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies() {
        use Category::{A, B, C, D, E};
        for (reply, expected) in [
            (r#"{"category":"A","reason":"less"}"#, Ok((A, "less"))),
            (r#"{"reason":"so","category":"(b)"}"#, Ok((B, "so"))),
            ("```json\n{\"category\": \"C\", \"reason\": \"equal\"}\n```", Ok((C, "equal"))),
            (r#"Sure: {"category":"D - contradiction"} Done (A)."#, Ok((D, ""))),
            ("{not json} (E)", Ok((E, "{not json} (E)"))),
            ("(c)", Ok((C, "(c)"))),
            ("It is (B), so (B).", Ok((B, "It is (B), so (B)."))),
            (r#"{"verdict":"A"} (D)"#, Ok((D, r#"{"verdict":"A"} (D)"#))),
            (r#"{"category":"F"}"#, Err("\"F\" is none")),
            (r#"{"category":"Because"}"#, Err("none of A to E")),
            (r#"{"category":3} (A)"#, Err("3 is none")),
            ("(F)", Err("(F) is none")),
            ("(A) rather than (D)", Err("several categories")),
            ("A", Err("no category")),
            ("", Err("no category")),
            ("{{{{", Err("no category")),
        ] {
            match (parse(reply), expected) {
                (Ok(vote), Ok((category, reason))) => {
                    assert_eq!((vote.category, vote.reason.as_str()), (category, reason), "{reply}");
                }
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{reply}: {error}"),
                (got, _) => panic!("{reply}: {got:?}"),
            }
        }
    }
}
