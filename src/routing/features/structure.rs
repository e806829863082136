//! The dense part of the features: length, scripts, layout, marks of mathematics and code, shares of lexicon hits.
//! Every value is bounded (0..4, mostly 0..1) so that no single prompt can dominate a linear model.

use super::Prompt;
use super::lexicon::N_GROUPS;
use super::ngram::Grams;
use super::normalize::is_cjk;

/// Number of structure features.
pub const N_STRUCTURE: usize = GROUP_HITS + 4 * N_GROUPS;

/// Positions that models read by name.
pub const LENGTH: usize = 0;
pub const TOTAL_LENGTH: usize = 1;
pub const TURNS: usize = 2;
pub const TOOLS: usize = 3;
pub const CJK_SHARE: usize = 4;

/// The first positions say how long, in which script and in what setting a prompt is, not what it is about.
pub const N_NEUTRAL: usize = 7;

const GROUP_HITS: usize = 33;

/// Scale of the logarithm of the total length; bounds it at about 10^20.
const TOTAL_SCALE: f32 = 12.0;

/// Fills `out` (length [`N_STRUCTURE`]) from the prompt as written (`text` are its ends) and its n-grams.
pub fn structure(prompt: &Prompt<'_>, text: (&str, &str), grams: &Grams) -> [f32; N_STRUCTURE] {
    let marks = Marks::count(text);
    let share = |n: u32| n as f32 / marks.n_chars.max(1) as f32;
    let count = |n: u32, scale: f32| log_scaled(n as f32, scale);
    let mut out = [0.0; N_STRUCTURE];
    let layout = [
        log_scaled(prompt.text.len() as f32, 10.0),
        log_scaled(prompt.n_chars_total as f32, TOTAL_SCALE),
        log_scaled(prompt.n_turns as f32, 4.0),
        f32::from(u8::from(prompt.has_tools)),
        share(marks.cjk),
        share(marks.latin),
        share(marks.digits),
        share(marks.punctuation),
        share(marks.other_script),
        count(marks.lines, 4.0),
        count(marks.indented, 3.0),
        count(marks.numbers, 3.0),
        count(marks.questions, 1.5),
        f32::from(u8::from(prompt.text.trim_end().ends_with(['?', '？']))),
        count(marks.commands, 3.0),
        count(marks.dollars, 3.0),
        count(marks.scripts, 3.0),
        count(marks.operators, 3.0),
        count(marks.brackets, 3.0),
        count(marks.semicolons, 3.0),
        count(marks.calls, 3.0),
        count(marks.backticks, 3.0),
        count(marks.tags, 3.0),
        count(marks.identifiers, 3.0),
        count(marks.options, 1.5),
        count(marks.titles, 2.0),
        log_scaled(0.5 * marks.blank_halves as f32, 2.0),
        count(marks.quotes, 3.0),
        count(marks.acronyms, 3.0),
        count(marks.quantities, 2.0),
        count(marks.fractions, 2.0),
        count(marks.formulas, 2.0),
        count(marks.numbers.min(8 * marks.questions), 2.0),
    ];
    debug_assert!(layout.len() <= GROUP_HITS);
    out[..layout.len()].copy_from_slice(&layout);
    let n_hits: f32 = grams.hits.iter().sum();
    for group in 0..N_GROUPS {
        let at = GROUP_HITS + 4 * group;
        out[at] = log_scaled(grams.hits[group], 3.0);
        out[at + 1] = grams.hits[group] / n_hits.max(3.0);
        out[at + 2] = log_scaled(grams.opening_hits[group], 1.5);
        out[at + 3] = f32::from(u8::from(grams.hits[group] > 0.0));
    }
    out
}

/// Inverse of the total length feature, in characters.
pub fn total_length(value: f32) -> f32 {
    (value * TOTAL_SCALE).exp() - 1.0
}

fn log_scaled(value: f32, scale: f32) -> f32 {
    ((1.0 + value).ln() / scale).min(3.9)
}

/// Counts over the characters as written.
#[derive(Default)]
struct Marks {
    n_chars: u32,
    cjk: u32,
    latin: u32,
    digits: u32,
    punctuation: u32,
    other_script: u32,
    lines: u32,
    /// Lines that begin with white space, as code does.
    indented: u32,
    /// Runs of digits.
    numbers: u32,
    questions: u32,
    /// LaTeX commands: a backslash and a letter.
    commands: u32,
    dollars: u32,
    /// `^`, and `_` outside words.
    scripts: u32,
    operators: u32,
    brackets: u32,
    semicolons: u32,
    /// A name directly followed by `(`.
    calls: u32,
    backticks: u32,
    /// `<` followed by a letter or `/`.
    tags: u32,
    /// snake_case and camelCase.
    identifiers: u32,
    /// Lines or phrases that begin with an answer letter: `A.`, `B、`.
    options: u32,
    /// Titles in 《》.
    titles: u32,
    /// Halves of blanks to fill: `____` has three, `（ ）` two.
    blank_halves: u32,
    quotes: u32,
    /// Runs of at least two capitals.
    acronyms: u32,
    /// A digit directly followed by a CJK character, as in a measured quantity.
    quantities: u32,
    /// A letter in parentheses after a letter, or raised to a power: `f(x)`, `x^2`.
    formulas: u32,
    /// A digit, a slash or percent sign, as in `1/4` and `25%`.
    fractions: u32,
}

impl Marks {
    fn count((head, tail): (&str, &str)) -> Self {
        let mut marks = Self::default();
        let (mut p2, mut p1) = ('\n', '\n');
        for c in head.chars().chain(tail.chars()) {
            marks.one(p2, p1, c);
            (p2, p1) = (p1, c);
        }
        marks
    }

    /// Counts `c`, which follows `p1`, which follows `p2`.
    fn one(&mut self, p2: char, p1: char, c: char) {
        self.n_chars += 1;
        // Most characters: inside a word and inside CJK text only the script counts.
        if c.is_ascii_lowercase() && (p1.is_ascii_lowercase() || p1 == ' ') {
            self.latin += 1;
            return;
        }
        if is_cjk(c) && is_cjk(p1) {
            self.cjk += 1;
            return;
        }
        let letter = c.is_ascii_alphabetic();
        match c {
            _ if letter => self.latin += 1,
            _ if is_cjk(c) => self.cjk += 1,
            _ if c.is_numeric() => {
                self.digits += 1;
                if !p1.is_numeric() {
                    self.numbers += 1;
                }
            }
            _ if c.is_alphabetic() => self.other_script += 1,
            _ if c.is_whitespace() => {}
            _ => self.punctuation += 1,
        }
        match c {
            '\n' => self.lines += 1,
            ' ' | '\t' if p1 == '\n' => self.indented += 1,
            '?' | '？' => self.questions += 1,
            '$' => self.dollars += 1,
            '^' => self.scripts += 1,
            '_' if p1 == '_' => self.blank_halves += 1,
            '_' if !p1.is_alphabetic() => self.scripts += 1,
            '+' | '=' | '*' | '/' | '×' | '÷' | '<' | '>' | '≤' | '≥' | '≠' | '%' | '√' | '∈' | '∠' | '△' =>
            {
                self.operators += 1;
            }
            '{' | '}' | '[' | ']' => self.brackets += 1,
            ';' => self.semicolons += 1,
            '(' if p1.is_ascii_alphanumeric() || p1 == '_' => self.calls += 1,
            ')' | '）' if matches!(p1, '(' | '（' | ' ' | '\u{3000}') => self.blank_halves += 2,
            '`' => self.backticks += 1,
            '《' => self.titles += 1,
            '"' | '“' | '「' => self.quotes += 1,
            '.' | '．' | '、' | ')' if matches!(p1, 'A'..='D' | 'Ａ'..='Ｄ') && !p2.is_alphanumeric() => {
                self.options += 1;
            }
            _ => {}
        }
        if letter && p1 == '\\' {
            self.commands += 1;
        }
        if p1 == '<' && (letter || c == '/') {
            self.tags += 1;
        }
        if letter && ((p1 == '_' && p2.is_ascii_alphanumeric()) || (c.is_ascii_uppercase() && p1.is_ascii_lowercase()))
        {
            self.identifiers += 1;
        }
        if (p2 == '(' && p1.is_ascii_lowercase() && c == ')')
            || (p2.is_ascii_alphabetic() && p1 == '^')
            || matches!(c, '²' | '³')
        {
            self.formulas += 1;
        }
        if p1.is_ascii_digit() && is_cjk(c) {
            self.quantities += 1;
        }
        if p1.is_ascii_digit() && matches!(c, '/' | '%') {
            self.fractions += 1;
        }
        if c.is_ascii_uppercase() && p1.is_ascii_uppercase() && !p2.is_ascii_uppercase() {
            self.acronyms += 1;
        }
    }
}
