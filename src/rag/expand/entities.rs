//! Names, quoted strings and numbers of a text, by their form alone: capitalised runs, quotation marks, digits.
//!
//! Called for keywords of a web search, for the second hop (the names of a passage that the question does not have) and
//! for decomposition. Chinese has no capitals: there only quoted titles, Latin names and numbers are found.

use std::ops::Range;

use super::stop::is_stop_word;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Quoted,
    Name,
    Number,
}

/// A span of the text; without its quotation marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity<'a> {
    pub kind: Kind,
    pub text: &'a str,
    pub range: Range<usize>,
}

/// Longer quotations are sentences that somebody said and not titles.
const MAX_QUOTED_CHARS: usize = 80;

/// Opening and closing marks. The single quote is left out: it is an apostrophe more often.
const QUOTES: [(char, char); 6] =
    [('"', '"'), ('\u{201c}', '\u{201d}'), ('《', '》'), ('「', '」'), ('『', '』'), ('〈', '〉')];

/// Words that may stand inside a name: "Bank of England", "Ludwig van Beethoven".
const CONNECTORS: [&str; 12] = ["of", "the", "de", "la", "le", "du", "da", "van", "von", "der", "al", "del"];

/// The entities of a text, in order, each text once.
pub fn entities(text: &str) -> Vec<Entity<'_>> {
    let mut found = quoted(text);
    let n_quoted = found.len();
    for range in gaps(text, &found[..n_quoted]) {
        runs(text, range, &mut found);
    }
    found.sort_by_key(|entity| entity.range.start);
    let mut kept: Vec<Entity<'_>> = Vec::new();
    for entity in found {
        if !kept.iter().any(|known| known.text == entity.text) {
            kept.push(entity);
        }
    }
    kept
}

/// The entities of a passage that a question does not have: what a second search may follow, at most `limit`.
///
/// # Notes
/// In order of appearance, the title of a passage therefore first when it stands before the text. Numbers are left out:
/// a year alone leads anywhere.
pub fn bridges<'a>(question: &str, passage: &'a str, limit: usize) -> Vec<&'a str> {
    let question = question.to_lowercase();
    let new = |entity: &Entity<'_>| entity.kind != Kind::Number && !question.contains(&entity.text.to_lowercase());
    entities(passage).into_iter().filter(new).map(|entity| entity.text).take(limit).collect()
}

/// The parts of the text between the spans.
pub(crate) fn gaps(text: &str, spans: &[Entity<'_>]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    for span in spans {
        if span.range.start > start {
            found.push(start..span.range.start);
        }
        start = start.max(span.range.end);
    }
    if start < text.len() {
        found.push(start..text.len());
    }
    found
}

fn quoted(text: &str) -> Vec<Entity<'_>> {
    let mut found = Vec::new();
    let mut rest = 0;
    while let Some((at, open)) = text[rest..].char_indices().find(|(_, c)| QUOTES.iter().any(|(open, _)| open == c)) {
        let start = rest + at + open.len_utf8();
        rest = start;
        let Some(&(_, close)) = QUOTES.iter().find(|(mark, _)| *mark == open) else { continue };
        let Some(length) = text[start..].find(close) else { continue };
        let inside = &text[start..start + length];
        let trimmed = inside.trim();
        if !trimmed.is_empty() && inside.chars().count() <= MAX_QUOTED_CHARS && !inside.contains('\n') {
            let from = start + (inside.len() - inside.trim_start().len());
            found.push(Entity { kind: Kind::Quoted, text: trimmed, range: from..from + trimmed.len() });
            rest = start + length + close.len_utf8();
        }
    }
    found
}

/// What one word says about the run that it may stand in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Capital,
    Number,
    Connector,
    /// A capitalised word that begins a sentence and is a function word.
    Other,
}

struct Word {
    range: Range<usize>,
    form: Form,
    /// Something stands between this word and the one before that ends a name: a comma, a full stop, a bracket.
    apart: bool,
}

fn runs<'a>(text: &'a str, within: Range<usize>, found: &mut Vec<Entity<'a>>) {
    let mut run: Vec<Word> = Vec::new();
    for word in split(text, within) {
        if word.apart || word.form == Form::Other {
            close(text, &mut run, found);
        }
        match word.form {
            Form::Other => {}
            Form::Connector if run.is_empty() => {}
            _ => run.push(word),
        }
    }
    close(text, &mut run, found);
}

fn close<'a>(text: &'a str, run: &mut Vec<Word>, found: &mut Vec<Entity<'a>>) {
    let mut words = std::mem::take(run);
    while words.last().is_some_and(|word| word.form == Form::Connector) {
        words.pop();
    }
    let (Some(first), Some(last)) = (words.first(), words.last()) else { return };
    if words.iter().any(|word| word.form == Form::Capital) {
        let range = first.range.start..last.range.end;
        found.push(Entity { kind: Kind::Name, text: &text[range.clone()], range });
    } else {
        let numbers = words.into_iter().filter(|word| word.form == Form::Number);
        found.extend(numbers.map(|word| Entity {
            kind: Kind::Number,
            text: &text[word.range.clone()],
            range: word.range,
        }));
    }
}

/// Words of letters and digits with the marks inside them ("O'Neill", "3.14", "well-known", "U.S."), Han left out.
fn split(text: &str, within: Range<usize>) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut apart = false;
    let mut begins = within.start == 0;
    let mut rest = within.start;
    while rest < within.end {
        let piece = &text[rest..within.end];
        let length = word_length(piece);
        if length == 0 {
            let c = piece.chars().next().unwrap_or(' ');
            if !c.is_whitespace() && !matches!(c, '&' | '.' | '\'' | '\u{2019}') {
                apart = true;
            }
            if matches!(c, '.' | '!' | '?' | ':' | '\n' | '。' | '！' | '？') {
                apart |= !(c == '.' && is_initial(text, words.last()));
                begins = apart;
            }
            rest += c.len_utf8();
            continue;
        }
        let possessive = ["'s", "\u{2019}s", "s'"].iter().find(|ending| piece[..length].ends_with(**ending));
        let cut = match possessive {
            Some(&"s'") => 1,
            Some(ending) => ending.len(),
            None => 0,
        };
        let range = rest..rest + length - cut;
        let form = form_of(&text[range.clone()], begins);
        words.push(Word { range, form, apart });
        // "Feilden's Norwich" is two names.
        (apart, begins) = (cut > 0, false);
        rest += length;
    }
    words
}

fn word_length(text: &str) -> usize {
    let mut end = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|&(_, c)| c);
        let inner = matches!(c, '\'' | '\u{2019}' | '-' | '.' | ',') && end > 0;
        let digits = |c: char| c.is_ascii_digit();
        let continues = match c {
            _ if is_letter(c) => true,
            '.' | ',' => inner && text[..at].chars().next_back().is_some_and(digits) && next.is_some_and(digits),
            _ => inner && next.is_some_and(is_letter),
        };
        if !continues {
            break;
        }
        end = at + c.len_utf8();
    }
    // "the brothers' house"
    if text[..end].ends_with('s') && text[end..].starts_with('\'') { end + 1 } else { end }
}

fn is_letter(c: char) -> bool {
    c.is_alphanumeric() && !crate::rag::words::is_character_word(c)
}

/// "J. Lopez", "Dr. No": the full stop belongs to the name.
fn is_initial(text: &str, word: Option<&Word>) -> bool {
    let Some(word) = word else { return false };
    let word = &text[word.range.clone()];
    word.chars().count() == 1 || matches!(word, "Dr" | "Mr" | "Mrs" | "Ms" | "St" | "Jr" | "Sr" | "Prof" | "Gen" | "Lt")
}

fn form_of(word: &str, begins_sentence: bool) -> Form {
    let lower = word.to_lowercase();
    let first = word.chars().next().unwrap_or(' ');
    if first.is_numeric() {
        // "21st" is a number, "1980s" too; "3D" is as good as a name.
        let letters = word.chars().filter(|c| c.is_uppercase()).count();
        return if letters > 0 { Form::Capital } else { Form::Number };
    }
    if first.is_uppercase() {
        if !is_stop_word(&lower) {
            return Form::Capital;
        }
        // "The", "What" at the beginning say nothing, and neither does "I" anywhere.
        if begins_sentence || lower == "i" {
            return Form::Other;
        }
        if CONNECTORS.contains(&lower.as_str()) {
            return Form::Connector;
        }
        // Inside a sentence "May" is the month, "A" an initial, "IT" and "WHO" abbreviations.
        let is_name = lower == "may" || word.chars().all(char::is_uppercase);
        return if is_name { Form::Capital } else { Form::Other };
    }
    if CONNECTORS.contains(&lower.as_str()) { Form::Connector } else { Form::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<&str> {
        entities(text).into_iter().map(|entity| entity.text).collect()
    }

    #[test]
    fn entities_by_their_form() {
        for (text, expected) in [
            ("What is Henry Feilden's occupation?", vec!["Henry Feilden"]),
            ("Were Scott Derrickson and Ed Wood of the same nationality?", vec!["Scott Derrickson", "Ed Wood"]),
            ("Who is Joseph A. Lopez?", vec!["Joseph A. Lopez"]),
            ("The Bank of England was founded in 1694.", vec!["Bank of England", "1694"]),
            ("Did he win the 2018 FIFA World Cup on 16 May 2019?", vec!["2018 FIFA World Cup", "16 May 2019"]),
            ("the song \"Hey Jude\" by the Beatles", vec!["Hey Jude", "Beatles"]),
            ("Einstein's brother. However, Bohr met Kramers.", vec!["Einstein", "Bohr", "Kramers"]),
            ("《三体》的作者刘慈欣在2015年获得Hugo Award", vec!["三体", "2015", "Hugo Award"]),
            ("about 3,400.5 people, 12 dogs", vec!["3,400.5", "12"]),
            ("Paris, Texas", vec!["Paris", "Texas"]),
            ("who won the cup", vec![]),
            ("Ludwig van Beethoven and the rest of the Band", vec!["Ludwig van Beethoven", "Band"]),
            ("\"unclosed quote of Anna", vec!["Anna"]),
            ("", vec![]),
        ] {
            assert_eq!(texts(text), expected, "{text}");
        }
    }

    #[test]
    fn bridges_are_what_the_question_lacks() {
        let question = "What nationality is the director of Sinister?";
        let passage =
            "Sinister (film). Sinister is a 2012 horror film directed by Scott Derrickson. It stars Ethan Hawke.";
        assert_eq!(bridges(question, passage, 5), ["Scott Derrickson", "Ethan Hawke"]);
        assert_eq!(bridges(question, passage, 1), ["Scott Derrickson"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_spans_of_itself(text in "(\\PC|[\"“”《》 .'’A-Z]){0,80}") {
            for entity in entities(&text) {
                proptest::prop_assert_eq!(&text[entity.range.clone()], entity.text);
                proptest::prop_assert!(!entity.text.trim().is_empty());
            }
        }
    }
}
