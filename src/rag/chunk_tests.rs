use proptest::prelude::*;

use super::super::document::{Block, BlockKind};
use super::super::sentence::sentences;
use super::*;

fn document(title: &str, blocks: &[(BlockKind, &str)]) -> Document {
    let blocks = blocks.iter().map(|&(kind, text)| Block { kind, text: text.to_owned() }).collect();
    Document { title: title.to_owned(), blocks, ..Document::default() }
}

/// Header and text of each passage.
fn cut(document: &Document, size: usize, overlap: usize) -> Vec<(String, String)> {
    let found = chunks(document, &ChunkSettings { size, overlap });
    assert!(found.iter().enumerate().all(|(index, chunk)| chunk.index as usize == index));
    found.into_iter().map(|chunk| (chunk.header, chunk.text)).collect()
}

use BlockKind::{Code, Heading, ListItem, Paragraph, TableRow};

const FIFTY: &str = "This is a sentence with exactly fifty characters..";

#[test]
fn a_short_document_is_one_passage_with_its_parts_apart() {
    let blocks = [
        (Paragraph, "One. Two."),
        (ListItem, "a"),
        (ListItem, "b"),
        (TableRow, "x: 1; y: 2"),
        (Code, "if a:\n  b\n\n\nc"),
    ];
    let expected = ("Guide".to_owned(), "One. Two.\na\nb\nx: 1; y: 2\n\nif a:\n  b\n\nc".to_owned());
    assert_eq!(cut(&document("Guide", &blocks), 500, 50), [expected]);
    assert_eq!(cut(&document("Guide", &[]), 500, 50), []);
    assert_eq!(cut(&document("Guide", &[(Paragraph, " \n ")]), 500, 50), []);
}

#[test]
fn sections_do_not_mix_and_carry_their_headings() {
    let body = [FIFTY; 3].join(" ");
    let blocks = [
        (Heading(1), "Guide"),
        (Paragraph, body.as_str()),
        (Heading(2), "Install"),
        (Heading(3), "Linux"),
        (Paragraph, body.as_str()),
        (Heading(2), "Use"),
        (Paragraph, body.as_str()),
    ];
    let headers: Vec<String> = cut(&document("Guide", &blocks), 400, 0).into_iter().map(|(header, _)| header).collect();
    assert_eq!(headers, ["Guide", "Guide > Install > Linux", "Guide > Use"]);
}

#[test]
fn tiny_sections_are_put_together_under_what_they_share() {
    let blocks =
        [(Heading(1), "Terms"), (Heading(2), "A"), (Paragraph, "First."), (Heading(2), "B"), (Paragraph, "Second.")];
    let expected = ("G > Terms".to_owned(), "A\nFirst.\n\nB\nSecond.".to_owned());
    assert_eq!(cut(&document("G", &blocks), 400, 0), [expected]);
}

#[test]
fn a_heading_with_nothing_below_it_is_text() {
    let blocks = [(Paragraph, "Before."), (Heading(1), "Nothing here")];
    assert_eq!(cut(&document("G", &blocks), 400, 0), [("G".to_owned(), "Before.\n\nNothing here".to_owned())]);
}

#[test]
fn passages_of_a_section_are_about_equally_long() {
    let body = [FIFTY; 10].join(" ");
    let lengths: Vec<usize> =
        cut(&document("", &[(Paragraph, &body)]), 450, 0).iter().map(|(_, text)| text.chars().count()).collect();
    assert_eq!(lengths, [254, 254]);
}

#[test]
fn whole_sentences_are_repeated() {
    let sentences: Vec<String> = (0..8).map(|index| format!("This is the sentence number {index} of all.")).collect();
    let found = cut(&document("", &[(Paragraph, &sentences.join(" "))]), 150, 60);
    for pair in found.windows(2) {
        let last = sentences.iter().rfind(|sentence| pair[0].1.ends_with(sentence.as_str())).unwrap();
        assert!(pair[1].1.starts_with(last.as_str()), "{pair:?}");
    }
    assert!(found.len() > 2);
}

#[test]
fn rows_and_lines_of_code_are_neither_cut_nor_repeated() {
    let row = "name: a row of a table; value: its number";
    for kind in [TableRow, Code] {
        let blocks = [(kind, row); 10];
        let found = cut(&document("", &blocks), 120, 60);
        let n_rows: usize = found.iter().map(|(_, text)| text.matches(row).count()).sum();
        assert_eq!(n_rows, 10, "{found:?}");
    }
}

#[test]
fn a_sentence_longer_than_a_passage_is_cut_at_a_clause() {
    let text = "The first part is this one here, and the second part of it comes after that comma, then the third.";
    let found = cut(&document("", &[(Paragraph, text)]), 50, 0);
    assert_eq!(found[0].1, "The first part is this one here,");
    assert_eq!(found.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(" "), text);
}

#[test]
fn headers_are_bounded() {
    let long = "word ".repeat(100);
    let blocks: Vec<(BlockKind, &str)> = (1..=200)
        .map(|level| (Heading(level), "deep"))
        .chain([(Heading(3), long.as_str()), (Paragraph, "x")])
        .collect();
    for (header, _) in cut(&document(&long, &blocks), 400, 0) {
        assert!(header.chars().count() <= 7 * 153, "{header}");
    }
}

fn any_document() -> impl Strategy<Value = Document> {
    let kind = prop_oneof![(0_u8..5).prop_map(Heading), Just(Paragraph), Just(ListItem), Just(Code), Just(TableRow)];
    let text = "([A-C][a-c ,]{0,30}[.!?] ){0,12}|\\PC{0,30}|[一二，。！ \n]{0,90}|([a-z]{1,9}[ \n]){0,40}|[a-z]{0,200}";
    let block = (kind, text).prop_map(|(kind, text)| Block { kind, text });
    ("[a-z ]{0,12}", prop::collection::vec(block, 0..14)).prop_map(|(title, blocks)| Document {
        title,
        blocks,
        ..Document::default()
    })
}

proptest! {
    #[test]
    fn nothing_is_lost_and_sizes_are_bounded(document in any_document(), size in 0_usize..400, overlap in 0_usize..200) {
        let settings = ChunkSettings { size, overlap };
        let found = chunks(&document, &settings);
        let size = size.max(MIN_SIZE);
        for (index, chunk) in found.iter().enumerate() {
            prop_assert_eq!(chunk.index as usize, index);
            prop_assert!(chunk.text.chars().count() <= size, "{} > {size}", chunk.text.chars().count());
            prop_assert!(!chunk.text.trim().is_empty());
        }
        for block in document.blocks.iter().filter(|block| !matches!(block.kind, Code | TableRow)) {
            let is_heading = matches!(block.kind, Heading(_));
            // A heading that is longer than a passage is cut as a whole, not by sentences.
            if is_heading && block.text.chars().count() > size {
                continue;
            }
            for sentence in sentences(&block.text).into_iter().map(|range| &block.text[range]) {
                let words: Vec<&str> = sentence.split_whitespace().collect();
                let heading = words.join(" ");
                let holds = |chunk: &Chunk| chunk.text.contains(sentence)
                    || is_heading && (chunk.header.contains(&heading) || chunk.text.contains(&heading));
                // Not those that had to be cut.
                if sentence.chars().count() <= size {
                    prop_assert!(found.iter().any(holds), "{sentence:?} is in none of {found:?}");
                }
            }
        }
        prop_assert_eq!(found, chunks(&document, &settings));
    }
}
