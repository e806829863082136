//! Lines into paragraphs, headings and list items: a PDF says where characters are, not what belongs together.

use std::collections::{BTreeMap, HashSet};

use super::lines::{BASELINE_SHIFT, Line, Page, drop_headers_and_footers};
use crate::rag::document::BlockKind;
use crate::rag::read::blocks::{Blocks, ends_sentence, is_spaceless, join, list_item};

/// A first line's indent, as a fraction of the font size.
const INDENT: f64 = 0.8;
/// How much larger than the text a heading is.
const HEADING_RATIO: f64 = 1.15;
/// Lines further apart than this much of the usual distance do not belong together.
const PARAGRAPH_GAP: f64 = 1.35;
const MAX_HEADING_CHARS: usize = 200;

/// The blocks of a document, and the heading on its first page, if there is one.
pub fn blocks(pages: Vec<Page>) -> (Blocks, Option<String>) {
    let mut pages: Vec<Vec<Line>> = pages.into_iter().map(Page::finished).collect();
    drop_headers_and_footers(&mut pages);
    let measures = Measures::of(&pages);
    let mut flow = Flow { measures, blocks: Blocks::default(), paragraph: None };
    let mut title = None;
    for (lines, page) in pages.into_iter().zip(0usize..) {
        let right = lines.iter().map(|line| line.right).fold(f64::MIN, f64::max);
        for line in lines {
            flow.add(line, page, right);
        }
        if page == 0 {
            title = flow.first_heading();
        }
    }
    flow.flush();
    (flow.blocks, title)
}

/// What is usual in the document.
struct Measures {
    /// The size of most of its characters.
    body_size: f64,
    /// From one baseline to the next, as a fraction of the font size.
    leading: f64,
    /// Sizes of headings, the largest first.
    heading_sizes: Vec<u32>,
    /// Words that occur inside of lines, where no hyphen was added to break them.
    words: HashSet<String>,
}

impl Measures {
    fn of(pages: &[Vec<Line>]) -> Self {
        let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
        let mut leadings = Vec::new();
        let mut words = HashSet::new();
        for lines in pages {
            for line in lines {
                *sizes.entry(line.size_class()).or_default() += line.n_chars();
                let mut inside: Vec<&str> = line.text.split(' ').collect();
                inside.pop();
                words.extend(inside.into_iter().map(bare).filter(|word| word.len() > 3).map(str::to_lowercase));
            }
            for (line, next) in lines.iter().zip(lines.iter().skip(1)) {
                let leading = (line.baseline - next.baseline) / line.size;
                if line.size_class() == next.size_class() && (0.8..3.0).contains(&leading) {
                    leadings.push(leading);
                }
            }
        }
        leadings.sort_by(f64::total_cmp);
        let body = sizes.iter().max_by_key(|(_, n_chars)| **n_chars).map_or(20, |(size, _)| *size);
        let body_size = f64::from(body) / 2.0;
        let heading_sizes =
            sizes.into_keys().rev().filter(|size| f64::from(*size) / 2.0 >= body_size * HEADING_RATIO).collect();
        Self {
            body_size,
            // The lower third: gaps between paragraphs are leadings too, larger ones.
            leading: leadings.get(leadings.len() / 3).copied().unwrap_or(1.2),
            heading_sizes,
            words,
        }
    }

    fn heading_level(&self, line: &Line) -> Option<u8> {
        let rank = self.heading_sizes.iter().position(|size| *size == line.size_class())?;
        let is_short = line.n_chars() <= MAX_HEADING_CHARS && line.text.chars().any(char::is_alphabetic);
        is_short.then(|| u8::try_from(rank + 1).unwrap_or(6).min(6))
    }
}

fn bare(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_alphanumeric())
}

/// Puts lines together.
struct Flow {
    measures: Measures,
    blocks: Blocks,
    paragraph: Option<Paragraph>,
}

struct Paragraph {
    kind: BlockKind,
    text: String,
    last: Line,
    page: usize,
    n_lines: usize,
    /// The left edge of its lines but the first, which may be indented.
    left: f64,
    /// Where full lines end.
    right: f64,
}

impl Flow {
    fn add(&mut self, line: Line, page: usize, page_right: f64) {
        let heading = self.measures.heading_level(&line);
        let item = list_item(&line.text).filter(|_| heading.is_none());
        let kind = match (heading, item) {
            (Some(level), _) => BlockKind::Heading(level),
            (None, Some(_)) => BlockKind::ListItem,
            (None, None) => BlockKind::Paragraph,
        };
        if let Some(paragraph) = &mut self.paragraph
            && item.is_none()
            && self.measures.continues(paragraph, &line, kind, page)
        {
            self.measures.append(&mut paragraph.text, &line.text);
            paragraph.left = if paragraph.n_lines == 1 { line.left } else { paragraph.left.min(line.left) };
            paragraph.right = paragraph.right.max(line.right);
            (paragraph.last, paragraph.page, paragraph.n_lines) = (line, page, paragraph.n_lines + 1);
            return;
        }
        self.flush();
        let text = item.unwrap_or(&line.text).to_owned();
        let left = line.left;
        self.paragraph = Some(Paragraph { kind, text, last: line, page, n_lines: 1, left, right: page_right });
    }

    fn first_heading(&self) -> Option<String> {
        let open = self.paragraph.as_ref().filter(|paragraph| matches!(paragraph.kind, BlockKind::Heading(_)));
        self.blocks.first_heading().or(open.map(|paragraph| paragraph.text.as_str())).map(str::to_owned)
    }

    fn flush(&mut self) {
        if let Some(paragraph) = self.paragraph.take() {
            self.blocks.push(paragraph.kind, &paragraph.text);
        }
    }
}

impl Measures {
    fn continues(&self, paragraph: &Paragraph, line: &Line, kind: BlockKind, page: usize) -> bool {
        let last = &paragraph.last;
        let is_same_kind =
            paragraph.kind == kind || paragraph.kind == BlockKind::ListItem && kind == BlockKind::Paragraph;
        let is_same_size = (last.size - line.size).abs() <= 0.1 * self.body_size;
        if !is_same_kind || !is_same_size || last.turn != line.turn {
            return false;
        }
        let size = line.size.max(last.size);
        let down = last.baseline - line.baseline;
        let gap = self.leading * PARAGRAPH_GAP * size;
        // On the same height: pieces of one line that were drawn apart.
        if page == paragraph.page && down.abs() < BASELINE_SHIFT * size {
            return matches!(kind, BlockKind::Paragraph | BlockKind::Heading(_)) && line.left > last.right;
        }
        let ended = ends_sentence(&last.text);
        if page != paragraph.page || down < 0.0 || down > gap {
            // Next page or column, or beyond a picture: only a sentence that is not at its end goes on there.
            let is_jump = page != paragraph.page || down < 0.0;
            let goes_on = line.text.starts_with(|c: char| c.is_lowercase() || is_spaceless(c));
            return is_jump && kind == BlockKind::Paragraph && !ended && goes_on && paragraph.n_lines > 1;
        }
        if matches!(kind, BlockKind::Heading(_)) {
            return true;
        }
        let is_indented = line.left > paragraph.left + INDENT * size;
        // The last line of a paragraph leaves more room than the next word needs.
        let room = paragraph.right - last.right;
        let next_word = line.text.split(' ').next().map_or(0, |word| word.chars().count());
        #[expect(clippy::cast_precision_loss, reason = "a word's length")]
        let is_cut_short = room > (next_word.min(20) as f64 + 1.0) * size * 0.6 && room > 3.0 * size;
        if paragraph.kind == BlockKind::ListItem {
            // What follows an item to the left of its text is another paragraph.
            return !(ended && line.left < paragraph.left + 0.3 * size && paragraph.n_lines == 1 && is_cut_short);
        }
        !(ended && (is_indented && paragraph.n_lines > 1 || is_cut_short))
    }

    /// Joins a line; a word that was parted by a hyphen at the line's end becomes whole.
    fn append(&self, text: &mut String, next: &str) {
        let first: String = next.chars().take_while(|c| c.is_alphanumeric()).collect();
        let is_word = first.starts_with(char::is_lowercase);
        let Some(head) = text.strip_suffix(['-', '\u{2010}']).filter(|head| head.ends_with(char::is_alphabetic)) else {
            join(text, next);
            return;
        };
        if !is_word {
            // A hyphen before a capital or a number belongs to the word.
            text.push_str(next);
            return;
        }
        let head = head.rsplit(' ').next().map(bare).unwrap_or_default().to_lowercase();
        let with_hyphen = format!("{head}-{}", first.to_lowercase());
        let without = format!("{head}{}", first.to_lowercase());
        let keeps = self.words.contains(&with_hyphen) && !self.words.contains(&without);
        if !keeps {
            text.pop();
        }
        text.push_str(next);
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::Glyph;
    use super::*;

    /// A page whose lines are `(left, baseline, size, text)` in a font with characters half as wide as high.
    fn page(lines: &[(f64, f64, f64, &str)]) -> Page {
        let mut page = Page::default();
        for (left, y, size, text) in lines {
            let mut x = *left;
            for c in text.chars() {
                let width = if is_spaceless(c) { *size } else { *size * 0.5 };
                let text = c.to_string();
                page.add(&Glyph { x, y: *y, direction: (1.0, 0.0), width, size: *size, text: &text });
                x += width;
            }
        }
        page
    }

    fn check(pages: Vec<Page>, expected: &[(BlockKind, &str)]) {
        let found = blocks(pages).0.into_vec();
        let found: Vec<_> = found.iter().map(|block| (block.kind, block.text.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn lines_become_headings_paragraphs_and_list_items() {
        use BlockKind::{Heading, ListItem, Paragraph};
        let page = page(&[
            (72.0, 740.0, 20.0, "Weirs and"),
            (72.0, 716.0, 20.0, "dams"),
            (72.0, 690.0, 10.0, "A weir is a low dam across a river that changes the char-"),
            (72.0, 678.0, 10.0, "acteristics of its flow, as well-known for centu-"),
            (72.0, 666.0, 10.0, "ries in all countries of the well-known world of today."),
            (82.0, 654.0, 10.0, "An indented line begins a paragraph that goes on and on"),
            (72.0, 642.0, 10.0, "and ends here."),
            (72.0, 630.0, 10.0, "1.2 Dams . . . . . . . . . 17"),
            (72.0, 620.0, 10.0, "• first item"),
            (72.0, 608.0, 10.0, "• second item"),
        ]);
        check(
            vec![page],
            &[
                (Heading(1), "Weirs and dams"),
                (
                    Paragraph,
                    "A weir is a low dam across a river that changes the characteristics of its flow, as well-known for \
                 centuries in all countries of the well-known world of today.",
                ),
                (Paragraph, "An indented line begins a paragraph that goes on and on and ends here."),
                (ListItem, "first item"),
                (ListItem, "second item"),
            ],
        );
    }

    #[test]
    fn headers_and_footers_are_dropped_and_sentences_go_on_over_pages() {
        let texts = [
            ["Weirs are built across rivers and streams, and", "the first page says something that does not"],
            ["end before the second page, which says that it", "is a matter of taste where a chapter ought to be"],
            ["over, and so the third page tells how it ends,", "which is here."],
        ];
        let pages = texts.iter().zip(1..).map(|([first, second], number)| {
            page(&[
                (72.0, 780.0, 8.0, "Journal of Weirs"),
                (72.0, 700.0, 10.0, first),
                (72.0, 688.0, 10.0, second),
                (300.0, 30.0, 8.0, &format!("Page {number} of 3")),
            ])
        });
        let whole: Vec<&str> = texts.iter().flatten().copied().collect();
        check(pages.collect(), &[(BlockKind::Paragraph, &whole.join(" "))]);
    }

    #[test]
    fn words_are_parted_by_gaps_and_chinese_is_not() {
        let mut page = page(&[(72.0, 700.0, 10.0, "two"), (89.0, 700.0, 10.0, "words"), (72.0, 600.0, 10.0, "大")]);
        page.add(&Glyph { x: 84.0, y: 600.0, direction: (1.0, 0.0), width: 10.0, size: 10.0, text: "坝" });
        // Drawn twice to look bold, and turned by a quarter.
        for x in [500.0, 500.2] {
            page.add(&Glyph { x, y: 100.0, direction: (0.0, 1.0), width: 5.0, size: 10.0, text: "A" });
            page.add(&Glyph { x, y: 105.0, direction: (0.0, 1.0), width: 5.0, size: 10.0, text: "b" });
        }
        check(
            vec![page],
            &[(BlockKind::Paragraph, "two words"), (BlockKind::Paragraph, "大坝"), (BlockKind::Paragraph, "Ab")],
        );
    }
}
