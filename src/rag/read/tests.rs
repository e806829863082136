//! The readers through the one door they have: what is chosen, what is read, what is refused, and that nothing panics.

use std::time::Duration;

use proptest::prelude::*;

use super::testing::{assembled, docx, encrypted, pdf, shown, zip};
use super::*;
use crate::rag::document::BlockKind;

fn one(name: &str, bytes: &[u8]) -> Document {
    let mut documents = read(name, None, bytes, &Limits::default()).unwrap();
    assert_eq!(documents.len(), 1, "{name}");
    documents.remove(0)
}

fn texts(document: &Document) -> Vec<(BlockKind, &str)> {
    document.blocks.iter().map(|block| (block.kind, block.text.as_str())).collect()
}

fn error(name: &str, bytes: &[u8], limits: &Limits) -> String {
    read(name, None, bytes, limits).unwrap_err().to_string()
}

#[test]
fn the_reader_is_chosen_by_media_type_then_name_then_content() {
    let html = b"<!DOCTYPE html><title>T</title><p>x".as_slice();
    for (name, media_type, bytes, kind, text) in [
        ("a.md", None, &b"# x"[..], BlockKind::Heading(1), "x"),
        ("a.bin", Some("text/markdown; charset=utf-8"), b"# x", BlockKind::Heading(1), "x"),
        ("a.md", Some("application/octet-stream"), b"# x", BlockKind::Heading(1), "x"),
        ("a.txt", Some("text/plain"), b"# x", BlockKind::Paragraph, "# x"),
        ("a", None, html, BlockKind::Paragraph, "x"),
        ("a.txt", None, html, BlockKind::Paragraph, "x"),
        ("folder.d/a", None, b"x", BlockKind::Paragraph, "x"),
        ("a.rs", None, b"a\n  b", BlockKind::Code, "a\n  b"),
        ("a.tsv", None, b"text\tb\nx\ty", BlockKind::Paragraph, "x"),
        ("a.json", None, b"[{\"text\":\"x\"}]", BlockKind::Paragraph, "x"),
    ] {
        let documents = read(name, media_type, bytes, &Limits::default()).unwrap();
        assert_eq!(texts(&documents[0]), [(kind, text)], "{name} {media_type:?}");
    }
}

#[test]
fn a_document_without_a_title_is_named_after_its_file() {
    assert_eq!(one("reports/annual.2023.txt", b"x").title, "annual.2023");
    assert_eq!(one("a.html", b"<title>T</title>x").title, "T");
    assert_eq!(read("a.csv", None, b"text\nx", &Limits::default()).unwrap()[0].title, "");
}

#[test]
fn text_in_other_encodings_is_read() {
    let chinese = "堰是横跨河流的低坝，用来改变水流的特性。堰也用于测量流量。";
    let japanese = "堰は川を横切る低いダムであり、流れの特性を変えるために使われています。";
    let french = "Un déversoir est un barrage bas à travers une rivière, où l'eau s'écoule. Ça marche très bien.";
    let utf16: Vec<u8> = chinese.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (label, text) in [
        ("gbk", chinese),
        ("gb18030", chinese),
        ("big5", "堰是橫跨河流的低壩，用來改變水流的特性。堰也用於測量流量。"),
        ("shift_jis", japanese),
        ("euc-jp", japanese),
        ("iso-2022-jp", japanese),
        ("windows-1252", french),
        ("utf-8", french),
    ] {
        let (bytes, _, had_errors) = encoding_rs::Encoding::for_label(label.as_bytes()).unwrap().encode(text);
        assert!(!had_errors);
        assert_eq!(texts(&one("a.txt", &bytes)), [(BlockKind::Paragraph, text)], "{label}");
        // Declared, even a short text leaves no doubt.
        let short: String = text.chars().take(4).collect();
        let (bytes, ..) = encoding_rs::Encoding::for_label(label.as_bytes()).unwrap().encode(&short);
        let declared = format!("text/plain; charset={label}");
        let documents = read("a", Some(&declared), &bytes, &Limits::default()).unwrap();
        assert_eq!(documents[0].blocks[0].text, short.trim(), "{label}");
    }
    for (name, bytes) in [
        ("mark", [&b"\xff\xfe"[..], &utf16].concat()),
        ("none", "plain text".encode_utf16().flat_map(u16::to_be_bytes).collect()),
    ] {
        assert!(!one(name, &bytes).blocks.is_empty(), "{name}");
    }
    let page = [&b"<meta charset='gbk'><p>"[..], &encoding_rs::GBK.encode("堰。").0].concat();
    assert_eq!(texts(&one("a.html", &page)), [(BlockKind::Paragraph, "堰。")]);
}

#[test]
fn utf8_that_is_damaged_in_a_few_places_is_not_taken_for_another_encoding() {
    let mut bytes = "堰是横跨河流的低坝，用来改变水流的特性。".as_bytes().to_vec();
    bytes.truncate(bytes.len() - 1);
    assert_eq!(one("a.txt", &bytes).blocks[0].text, "堰是横跨河流的低坝，用来改变水流的特性");
}

#[test]
fn a_pdf_is_read_with_its_title_and_paragraphs() {
    let page = shown(&["A weir is a low dam across a river. It changes", "the flow of the water \\(and its level\\)."]);
    let document = one("a.pdf", &pdf(&[&page, b"BT /F1 12 Tf 72 700 Td (Caf\\351) Tj ET"], &[]));
    assert_eq!(
        texts(&document),
        [
            (
                BlockKind::Paragraph,
                "A weir is a low dam across a river. It changes the flow of the water (and its level)."
            ),
            (BlockKind::Paragraph, "Café"),
        ]
    );
    assert_eq!((document.title.as_str(), document.metadata["author"].as_str()), ("On Weirs", "Ann"));
    assert_eq!((document.metadata["pages"].as_str(), document.metadata["date"].as_str()), ("2", "2024-01-31"));
}

#[test]
fn chinese_text_in_a_pdf_is_read_by_its_encoding() {
    let font =
        "<</Type/Font/Subtype/Type0/BaseFont/SimSun/Encoding/GBK-EUC-H/DescendantFonts[<</Subtype/CIDFontType0>>]>>";
    let gbk = encoding_rs::GBK.encode("堰是低坝").0.into_owned();
    let content = [&b"BT /F2 12 Tf 72 700 Td ("[..], &gbk, b") Tj ET"].concat();
    assert_eq!(texts(&one("a.pdf", &pdf(&[&content], &[font]))), [(BlockKind::Paragraph, "堰是低坝")]);
}

#[test]
fn a_pdf_with_the_empty_password_opens_and_one_with_another_is_named() {
    let plain = pdf(&[&shown(&["secret text"])], &[]);
    assert_eq!(texts(&one("a.pdf", &encrypted(&plain, ""))), [(BlockKind::Paragraph, "secret text")]);
    let error = read("a.pdf", None, &encrypted(&plain, "pass"), &Limits::default()).unwrap_err();
    assert_eq!(error, ReadError::PdfEncrypted);
}

#[test]
fn scans_and_broken_pdfs_are_named() {
    let scan = pdf(&[b"q 612 0 0 792 0 0 cm /Im1 Do Q", b""], &[]);
    let error = read("a.pdf", None, &scan, &Limits::default()).unwrap_err();
    assert_eq!(error, ReadError::PdfNeedsOcr { pages: 2 });
    let whole = pdf(&[&shown(&["text"])], &[]);
    for bytes in [&whole[..whole.len() / 2], b"%PDF-1.4\n", b"<html>", b"no pdf"] {
        let error = read("a.pdf", None, bytes, &Limits::default()).unwrap_err().to_string();
        assert!(error.contains("PDF"), "{error}");
    }
    let limits = Limits { max_pdf_pages: 1, ..Limits::default() };
    let error = read("a.pdf", None, &scan, &limits).unwrap_err();
    assert_eq!(error, ReadError::TooManyPages { pages: 2, limit: 1 });
}

/// Loops that overflow the stack of a careless reader, which no catching of panics survives.
#[test]
fn a_pdf_whose_objects_refer_to_themselves_is_read_or_refused() {
    let mut objects: Vec<Vec<u8>> = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[5 0 R 2 0 R]/Count 2/Parent 2 0 R>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding 3 0 R/ToUnicode 3 0 R>>",
        "<</Title 4 0 R>>",
        "<</Type/Page/Parent 2 0 R/Contents 6 0 R/Resources<</XObject<</A 7 0 R>>/Font<</F1 3 0 R>>>>>>",
    ]
    .map(|object| object.as_bytes().to_vec())
    .to_vec();
    let page = "BT /F1 9 Tf (here) Tj ET /A Do";
    objects.push(format!("<</Length {}>>stream\n{page}\nendstream", page.len()).into_bytes());
    let form = "/A Do /A Do /A Do";
    let own = "/Subtype/Form/Resources<</XObject<</A 7 0 R>>>>";
    objects.push(format!("<</Type/XObject{own}/Length {}>>stream\n{form}\nendstream", form.len()).into_bytes());
    assert_eq!(texts(&one("a.pdf", &assembled(&objects))), [(BlockKind::Paragraph, "here")]);
}

#[test]
fn a_pdf_or_docx_that_unpacks_to_more_than_the_limit_is_refused() {
    let limits = Limits { max_unpacked_bytes: 100_000, ..Limits::default() };
    let page = shown(&["text"; 10_000]);
    assert!(error("a.pdf", &pdf(&[&page], &[]), &limits).contains("unpacks to more than 97 KiB"));
    let body = "<w:p><w:r><w:t>text</w:t></w:r></w:p>".repeat(10_000);
    let bomb = docx(&body);
    assert!(bomb.len() < 10_000);
    assert!(error("a.docx", &bomb, &limits).contains("unpacks to more than 97 KiB"));
    let slow = Limits { pdf_time: Duration::ZERO, ..Limits::default() };
    assert!(error("a.pdf", &pdf(&[&page], &[]), &slow).contains("seconds"));
}

#[test]
fn a_word_document_is_read_with_headings_lists_and_tables() {
    let body = r#"<w:p><w:pPr><w:pStyle w:val="Verzeichnis1"/></w:pPr><w:r><w:t>Weirs 1</w:t></w:r></w:p>
        <w:p><w:pPr><w:pStyle w:val="berschrift1"/><w:numPr/></w:pPr><w:r><w:t>Weirs</w:t></w:r></w:p>
        <w:p><w:r><w:t xml:space="preserve">A &lt;low&gt; </w:t></w:r><w:del><w:r><w:delText>high</w:delText></w:r></w:del>
        <w:r><w:tab/><w:t>da</w:t></w:r><w:hyperlink><w:r><w:t>m&#46;</w:t></w:r></w:hyperlink></w:p>
        <w:p><w:pPr><w:pStyle w:val="Kapitel"/></w:pPr><w:r><w:t>Kinds</w:t></w:r></w:p>
        <w:p><w:pPr><w:numPr><w:numId w:val="1"/></w:numPr></w:pPr><w:r><w:t>broad</w:t></w:r></w:p>
        <w:tbl><w:tr><w:tc><w:p><w:r><w:t>Name</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>Height</w:t></w:r></w:p></w:tc></w:tr>
        <w:tr><w:tc><w:p><w:r><w:t>Weir</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>3</w:t></w:r></w:p><w:p><w:r><w:t>m</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"#;
    let document = one("a.docx", &docx(body));
    assert_eq!(
        texts(&document),
        [
            (BlockKind::Heading(1), "Weirs"),
            (BlockKind::Paragraph, "A <low> dam."),
            (BlockKind::Heading(2), "Kinds"),
            (BlockKind::ListItem, "broad"),
            (BlockKind::TableRow, "Name: Weir; Height: 3 m"),
        ]
    );
    assert_eq!((document.title.as_str(), document.metadata["author"].as_str()), ("On Weirs & Dams", "Ann"));
}

#[test]
fn what_is_no_text_or_of_no_known_type_is_refused_with_advice() {
    let limits = Limits { max_file_bytes: 1_000, ..Limits::default() };
    let plain = pdf(&[&shown(&["x"])], &[]);
    let noise: Vec<u8> = (0..900u32).map(|n| (n * n % 251) as u8).collect();
    for (name, bytes, parts) in [
        ("a.txt", &b""[..], &["empty"][..]),
        ("a.txt", b" \n ", &["empty"]),
        ("a.txt", &[b'x'; 1_001], &["1001 bytes", "limit is 1000 bytes", "split"]),
        ("a.txt", &noise, &["binary data", "zero bytes"]),
        ("a.txt", b"\x89PNG\r\n\x1a\n123", &["plain text", "PNG image"]),
        ("a.csv", b"PK\x03\x04 xl/workbook.xml", &["CSV", "Excel"]),
        ("a.txt", &plain, &["named or declared as plain text", "is a PDF"]),
        ("a", b"PK\x03\x04 xl/workbook.xml", &["Excel workbook", "convert", "Markdown"]),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1..", &["password", "save it as .docx"]),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1..", &["password", "save it as .docx"]),
        ("a.docx", b"PK\x03\x04 word/document.xml", &["Word document is broken"]),
        ("a.docx", &zip(&[("word/document.xml", "<w:p><w:t>x</w:q>")]), &["Word document is broken"]),
        ("a.html", b"<nav></nav><script>x</script>", &["nothing readable"]),
    ] {
        let error = error(name, bytes, &limits);
        assert!(parts.iter().all(|part| error.contains(part)), "{name}: {error}");
    }
    let error = read("a", Some("text/plain; charset=gbk"), &[0xff; 100], &Limits::default()).unwrap_err();
    assert!(matches!(error, ReadError::WrongEncoding { errors: 100, .. }), "{error}");
}

/// One valid file per format, by its extension.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let page = shown(&["A weir is a low dam.", "It \\(mostly\\) is."]);
    let map = "<</Type/Font/Subtype/Type0/Encoding/Identity-H/BaseFont/X/DescendantFonts[<</W[1[500 600]3 9 700]>>]>>";
    let file = pdf(&[&page, b"BI /W 1 /H 1 ID x EI BT /F2 9 Tf <0041> Tj [(a) -300 (b)] TJ ET"], &[map]);
    vec![
        ("txt", "堰是低坝。\n\n- one\n- two".as_bytes().to_vec()),
        ("md", b"---\ntitle: x\n---\n# A\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n<p>x</p>\n\n1. y\n".to_vec()),
        ("html", b"<meta charset=gbk><main><h1>x</h1><table><tr><th>a<th>b<tr><td>1<td>2</table><pre>y".to_vec()),
        ("csv", b"id;title;text\n1;a;\"b\n c\"\n2;d;e\n".to_vec()),
        ("jsonl", b"{\"id\":1,\"text\":\"a\"}\n{\"b\":[1,{\"c\":null}]}\n".to_vec()),
        ("json", b"[{\"id\":1,\"text\":\"a\"},{\"b\":[1,{\"c\":null}]}]".to_vec()),
        ("docx", docx("<w:p><w:r><w:t>x</w:t></w:r></w:p><w:tbl><w:tr><w:tc/></w:tr></w:tbl>")),
        ("pdf", encrypted(&file, "")),
        ("pdf", file),
    ]
}

proptest! {
    #[test]
    fn any_bytes_under_any_name_are_read_or_refused(bytes in any::<Vec<u8>>(), sample in 0usize..9) {
        let limits = Limits::default();
        let (extension, whole) = &samples()[sample];
        let name = format!("a.{extension}");
        let _ = read(&name, None, &bytes, &limits);
        let _ = read("a", None, &bytes, &limits);
        // With the right beginning, readers get further.
        let _ = read(&name, None, &[&whole[..whole.len() / 2], &bytes].concat(), &limits);
    }

    #[test]
    fn a_damaged_file_is_read_or_refused(
        sample in 0usize..9,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (extension, mut bytes) = samples().swap_remove(sample);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let limits = Limits { max_unpacked_bytes: 1 << 20, ..Limits::default() };
        let _ = read(&format!("a.{extension}"), None, &bytes, &limits);
    }

    #[test]
    fn any_structure_of_text_gives_clean_blocks(text in "[a-z0-9 #*<>/|`~=_\\-\n\t:;,.\"'&!\\[\\](){}堰。\u{0}\u{feff}]{0,200}") {
        for extension in ["txt", "md", "html", "csv", "jsonl", "json", "log"] {
            let Ok(documents) = read(&format!("a.{extension}"), None, text.as_bytes(), &Limits::default()) else { continue };
            for block in documents.iter().flat_map(|document| &document.blocks) {
                prop_assert!(!block.text.trim().is_empty());
                prop_assert!(block.text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\t')));
                prop_assert!(block.kind == BlockKind::Code || block.text.trim() == block.text);
            }
        }
    }
}
