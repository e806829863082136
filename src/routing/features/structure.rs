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

/// Fills `out` (length [`N_STRUCTURE`]) from the prompt as written (`text` is its bounded part) and its n-grams.
pub fn structure(prompt: &Prompt<'_>, text: [&str; 2], grams: &Grams) -> [f32; N_STRUCTURE] {
    let marks = Marks::count(text);
    let n = marks.n_chars.max(1.0);
    let mut out = [0.0; N_STRUCTURE];
    let layout = [
        log_scaled(prompt.text.len() as f32, 10.0),
        log_scaled(prompt.n_chars_total as f32, TOTAL_SCALE),
        log_scaled(prompt.n_turns as f32, 4.0),
        f32::from(u8::from(prompt.has_tools)),
        marks.cjk / n,
        marks.latin / n,
        marks.digits / n,
        marks.punctuation / n,
        marks.other_script / n,
        log_scaled(marks.lines, 4.0),
        log_scaled(marks.indented, 3.0),
        log_scaled(marks.numbers, 3.0),
        log_scaled(marks.questions, 1.5),
        f32::from(u8::from(prompt.text.trim_end().ends_with(['?', '？']))),
        log_scaled(marks.commands, 3.0),
        log_scaled(marks.dollars, 3.0),
        log_scaled(marks.scripts, 3.0),
        log_scaled(marks.operators, 3.0),
        log_scaled(marks.brackets, 3.0),
        log_scaled(marks.semicolons, 3.0),
        log_scaled(marks.calls, 3.0),
        log_scaled(marks.backticks, 3.0),
        log_scaled(marks.tags, 3.0),
        log_scaled(marks.identifiers, 3.0),
        log_scaled(marks.options, 1.5),
        log_scaled(marks.titles, 2.0),
        log_scaled(marks.blanks, 2.0),
        log_scaled(marks.quotes, 3.0),
        log_scaled(marks.acronyms, 3.0),
        log_scaled(marks.quantities, 2.0),
        log_scaled(marks.fractions, 2.0),
        log_scaled(marks.formulas, 2.0),
        log_scaled(marks.numbers.min(8.0 * marks.questions), 2.0),
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
    n_chars: f32,
    cjk: f32,
    latin: f32,
    digits: f32,
    punctuation: f32,
    other_script: f32,
    lines: f32,
    /// Lines that begin with white space, as code does.
    indented: f32,
    /// Runs of digits.
    numbers: f32,
    questions: f32,
    /// LaTeX commands: a backslash and a letter.
    commands: f32,
    dollars: f32,
    /// `^`, and `_` outside words.
    scripts: f32,
    operators: f32,
    brackets: f32,
    semicolons: f32,
    /// A name directly followed by `(`.
    calls: f32,
    backticks: f32,
    /// `<` followed by a letter or `/`.
    tags: f32,
    /// snake_case and camelCase.
    identifiers: f32,
    /// Lines or phrases that begin with an answer letter: `A.`, `B、`.
    options: f32,
    /// Titles in 《》.
    titles: f32,
    /// Blanks to fill: `____`, `（ ）`.
    blanks: f32,
    quotes: f32,
    /// Runs of at least two capitals.
    acronyms: f32,
    /// A digit directly followed by a CJK character, as in a measured quantity.
    quantities: f32,
    /// A letter in parentheses after a letter, or raised to a power: `f(x)`, `x^2`.
    formulas: f32,
    /// A digit, a slash or percent sign, as in `1/4` and `25%`.
    fractions: f32,
}

impl Marks {
    fn count(text: [&str; 2]) -> Self {
        let mut marks = Self::default();
        let (mut p2, mut p1) = ('\n', '\n');
        for c in text.into_iter().flat_map(str::chars) {
            marks.one(p2, p1, c);
            (p2, p1) = (p1, c);
        }
        marks
    }

    /// Counts `c`, which follows `p1`, which follows `p2`.
    fn one(&mut self, p2: char, p1: char, c: char) {
        self.n_chars += 1.0;
        let letter = c.is_ascii_alphabetic();
        match c {
            _ if letter => self.latin += 1.0,
            _ if is_cjk(c) => self.cjk += 1.0,
            _ if c.is_numeric() => {
                self.digits += 1.0;
                if !p1.is_numeric() {
                    self.numbers += 1.0;
                }
            }
            _ if c.is_alphabetic() => self.other_script += 1.0,
            _ if c.is_whitespace() => {}
            _ => self.punctuation += 1.0,
        }
        match c {
            '\n' => self.lines += 1.0,
            ' ' | '\t' if p1 == '\n' => self.indented += 1.0,
            '?' | '？' => self.questions += 1.0,
            '$' => self.dollars += 1.0,
            '^' => self.scripts += 1.0,
            '_' if p1 == '_' => self.blanks += 0.5,
            '_' if !p1.is_alphabetic() => self.scripts += 1.0,
            '+' | '=' | '*' | '/' | '×' | '÷' | '<' | '>' | '≤' | '≥' | '≠' | '%' | '√' | '∈' | '∠' | '△' =>
            {
                self.operators += 1.0;
            }
            '{' | '}' | '[' | ']' => self.brackets += 1.0,
            ';' => self.semicolons += 1.0,
            '(' if p1.is_ascii_alphanumeric() || p1 == '_' => self.calls += 1.0,
            ')' | '）' if matches!(p1, '(' | '（' | ' ' | '\u{3000}') => self.blanks += 1.0,
            '`' => self.backticks += 1.0,
            '《' => self.titles += 1.0,
            '"' | '“' | '「' => self.quotes += 1.0,
            '.' | '．' | '、' | ')' if matches!(p1, 'A'..='D' | 'Ａ'..='Ｄ') && !p2.is_alphanumeric() => {
                self.options += 1.0;
            }
            _ => {}
        }
        if letter && p1 == '\\' {
            self.commands += 1.0;
        }
        if p1 == '<' && (letter || c == '/') {
            self.tags += 1.0;
        }
        if letter && ((p1 == '_' && p2.is_ascii_alphanumeric()) || (c.is_ascii_uppercase() && p1.is_ascii_lowercase()))
        {
            self.identifiers += 1.0;
        }
        if (p2 == '(' && p1.is_ascii_lowercase() && c == ')')
            || (p2.is_ascii_alphabetic() && p1 == '^')
            || matches!(c, '²' | '³')
        {
            self.formulas += 1.0;
        }
        if p1.is_ascii_digit() && is_cjk(c) {
            self.quantities += 1.0;
        }
        if p1.is_ascii_digit() && matches!(c, '/' | '%') {
            self.fractions += 1.0;
        }
        if c.is_ascii_uppercase() && p1.is_ascii_uppercase() && !p2.is_ascii_uppercase() {
            self.acronyms += 1.0;
        }
    }
}
