use proptest::prelude::*;

use super::*;

fn check(text: &str, expected: &[&str]) {
    let found: Vec<&str> = sentences(text).into_iter().map(|range| &text[range]).collect();
    assert_eq!(found, expected, "{text:?}");
}

#[test]
fn english() {
    check("", &[]);
    check(" \n\t ", &[]);
    check("One. Two! Three? Four", &["One.", "Two!", "Three?", "Four"]);
    check("Dr. Smith met Mr. J. R. Jones. They talked.", &["Dr. Smith met Mr. J. R. Jones.", "They talked."]);
    check(
        "It costs 3.14 or $1.50. See e.g. Fig. 3 or No. 5.",
        &["It costs 3.14 or $1.50.", "See e.g. Fig. 3 or No. 5."],
    );
    check("He lived in the U.S. Army base.", &["He lived in the U.S. Army base."]);
    check("He lived in the U.S. The base was big.", &["He lived in the U.S.", "The base was big."]);
    check(
        "She likes art. Then she left. Is it? No. Why?",
        &["She likes art.", "Then she left.", "Is it?", "No.", "Why?"],
    );
    check("\"Why?\" he asked. \"I know.\" She left.", &["\"Why?\" he asked.", "\"I know.\"", "She left."]);
    check("(It was so.) “Really.” Yes.", &["(It was so.)", "“Really.”", "Yes."]);
    check("It was shown.[12] The rest follows.[3][4] End.", &["It was shown.[12]", "The rest follows.[3][4]", "End."]);
    check("Wait ... what? Well... Yes.", &["Wait ... what?", "Well...", "Yes."]);
    check("Rome (lit. city of old) fell. So it goes.", &["Rome (lit. city of old) fell.", "So it goes."]);
    check(
        "Apples, pears, etc. are fruit. Acme Inc. Chairman Bob.",
        &["Apples, pears, etc. are fruit.", "Acme Inc. Chairman Bob."],
    );
    check("At 5 p.m. He left on Jan. 5.", &["At 5 p.m.", "He left on Jan. 5."]);
    check("all is small . the results are these .", &["all is small .", "the results are these ."]);
    check("Use v1.2.3 of example.com/a.html now. Done.", &["Use v1.2.3 of example.com/a.html now.", "Done."]);
}

#[test]
fn chinese() {
    check("你好。我是谁？我们走！好；行", &["你好。", "我是谁？", "我们走！", "好；", "行"]);
    check("他说：“走吧。”然后走了。", &["他说：“走吧。”", "然后走了。"]);
    check("「是嗎？」她問。", &["「是嗎？」", "她問。"]);
    check("你好!我是A.你呢?好", &["你好!", "我是A.你呢?", "好"]);
    check("真的？！是。", &["真的？！", "是。"]);
    check("版本3.5发布于2024年。共1,000人。", &["版本3.5发布于2024年。", "共1,000人。"]);
    check("他说。\"你好。\"再见", &["他说。", "\"你好。\"", "再见"]);
}

#[test]
fn line_breaks() {
    check("A heading\n\nSome text", &["A heading", "Some text"]);
    check("Introduction\nThis is the text. It goes on", &["Introduction", "This is the text.", "It goes on"]);
    check(
        "This line of ordinary text was broken where it was full, in New\nYork of all places.",
        &["This line of ordinary text was broken where it was full, in New\nYork of all places."],
    );
    check("short line that\ngoes on here", &["short line that\ngoes on here"]);
    check(
        "Buy:\n- milk\n- bread and\n  butter\n1. one\n2) two",
        &["Buy:", "- milk", "- bread and\n  butter", "1. one", "2) two"],
    );
    check("# Title\ntext\r\n\r\nmore", &["# Title", "text", "more"]);
    check("一、总则\n二、细则", &["一、总则", "二、细则"]);
}

#[test]
fn long_sentences_are_cut_at_clauses() {
    let clause = format!("{},", "word ".repeat(60).trim_end());
    let text = [clause.as_str(); 5].join(" ");
    let found = sentences(&text);
    assert!(found.len() == 2 && found.iter().all(|range| text[range.clone()].ends_with(',')), "{found:?}");
    let blob = "x".repeat(2500);
    assert_eq!(sentences(&blob), [0..1000, 1000..2000, 2000..2500]);
    assert_eq!(clauses("ab cd", 3), [0..2, 3..5]);
    assert!(clauses("  ", 3).is_empty());
}

proptest! {
    #[test]
    fn sentences_cover_the_text_in_order(
        text in "\\PC{0,80}|[a-cA-C1.!?\"'() \n\\[\\]…-]{0,80}|[一二的。！？；“”「」，a.\" \n]{0,80}|(Dr|No|U\\.S|etc|[ \n]|[.]|The|5|x){0,40}",
        max_chars in 1_usize..40,
    ) {
        for ranges in [sentences(&text), clauses(&text, max_chars)] {
            let mut at = 0;
            for range in &ranges {
                prop_assert!(text.is_char_boundary(range.start) && text.is_char_boundary(range.end));
                prop_assert!(range.start < range.end && at <= range.start);
                prop_assert!(text[at..range.start].trim().is_empty());
                prop_assert_eq!(text[range.clone()].trim(), &text[range.clone()]);
                at = range.end;
            }
            prop_assert!(text[at..].trim().is_empty());
        }
        prop_assert!(clauses(&text, max_chars).iter().all(|range| text[range.clone()].chars().count() <= max_chars));
    }
}
