//! Files for tests, made in code: a binary file in a repository says nothing to who reads it.

use std::io::Write;

use lopdf::{EncryptionState, EncryptionVersion, Object, Permissions, StringFormat};
use zip::write::SimpleFileOptions;

/// A PDF with one page per content stream, in Helvetica as `/F1` and in the further fonts, which are object 5 onward.
pub fn pdf(contents: &[&[u8]], fonts: &[&str]) -> Vec<u8> {
    let n_fonts = fonts.len();
    let first_page = 5 + n_fonts;
    let kids: Vec<String> = (0..contents.len()).map(|n| format!("{} 0 R", first_page + 2 * n)).collect();
    let names: Vec<String> = (0..n_fonts).map(|n| format!("/F{} {} 0 R", n + 2, n + 5)).collect();
    let mut objects: Vec<Vec<u8>> = vec![
        b"<</Type/Catalog/Pages 2 0 R>>".to_vec(),
        format!(
            "<</Type/Pages/Kids[{}]/Count {}/MediaBox[0 0 612 792]/Resources<</Font<</F1 3 0 R {}>>>>>>",
            kids.join(" "),
            contents.len(),
            names.join(" ")
        )
        .into_bytes(),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>".to_vec(),
        b"<</Title(On Weirs)/Author(Ann)/CreationDate(D:20240131120000Z)>>".to_vec(),
    ];
    objects.extend(fonts.iter().map(|font| font.as_bytes().to_vec()));
    for (content, n) in contents.iter().zip(0..) {
        objects.push(format!("<</Type/Page/Parent 2 0 R/Contents {} 0 R>>", first_page + 2 * n + 1).into_bytes());
        let mut stream = format!("<</Length {}>>stream\n", content.len()).into_bytes();
        stream.extend_from_slice(content);
        stream.extend_from_slice(b"\nendstream");
        objects.push(stream);
    }
    assembled(&objects)
}

/// Objects with a table of where they are.
pub fn assembled(objects: &[Vec<u8>]) -> Vec<u8> {
    let mut file = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n".to_vec();
    let mut table = format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for (object, number) in objects.iter().zip(1..) {
        table.push_str(&format!("{:010} 00000 n \n", file.len()));
        file.extend_from_slice(format!("{number} 0 obj\n").as_bytes());
        file.extend_from_slice(object);
        file.extend_from_slice(b"\nendobj\n");
    }
    let start = file.len();
    file.extend_from_slice(table.as_bytes());
    let trailer = format!("trailer<</Size {}/Root 1 0 R/Info 4 0 R>>\nstartxref\n{start}\n%%EOF\n", objects.len() + 1);
    file.extend_from_slice(trailer.as_bytes());
    file
}

/// A content stream that writes one line below the other.
pub fn shown(lines: &[&str]) -> Vec<u8> {
    let mut content = "BT /F1 12 Tf 14 TL 72 720 Td".to_owned();
    for line in lines {
        content.push_str(&format!(" ({line}) Tj T*"));
    }
    content.push_str(" ET");
    content.into_bytes()
}

pub fn encrypted(pdf: &[u8], user_password: &str) -> Vec<u8> {
    let mut document = lopdf::Document::load_mem(pdf).unwrap();
    let id = Object::String(vec![7; 16], StringFormat::Hexadecimal);
    document.trailer.set("ID", Object::Array(vec![id.clone(), id]));
    let version = EncryptionVersion::V2 {
        document: &document,
        owner_password: "owner",
        user_password,
        key_length: 128,
        permissions: Permissions::all(),
    };
    let state = EncryptionState::try_from(version).unwrap();
    document.encrypt(&state).unwrap();
    let mut file = Vec::new();
    document.save_to(&mut file).unwrap();
    file
}

pub fn zip(parts: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in parts {
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        writer.start_file(*name, options).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A Word document with this body, and styles as a German Word writes them.
pub fn docx(body: &str) -> Vec<u8> {
    const SPACE: &str = r#"xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main""#;
    zip(&[
        (
            "_rels/.rels",
            r#"<Relationships><Relationship Type="http://x/officeDocument" Target="/word/document.xml"/></Relationships>"#,
        ),
        (
            "word/document.xml",
            &format!("<?xml version=\"1.0\"?><w:document {SPACE}><w:body>{body}</w:body></w:document>"),
        ),
        (
            "word/styles.xml",
            &format!(
                r#"<w:styles {SPACE}><w:style w:type="paragraph" w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>
                <w:style w:type="paragraph" w:styleId="Verzeichnis1"><w:name w:val="toc 1"/></w:style>
                <w:style w:type="paragraph" w:styleId="Kapitel"><w:name w:val="Kapitel"/><w:basedOn w:val="Normal"/>
                <w:pPr><w:outlineLvl w:val="1"/></w:pPr></w:style></w:styles>"#
            ),
        ),
        (
            "docProps/core.xml",
            "<c xmlns:dc=\"d\"><dc:title>On Weirs &amp; Dams</dc:title><dc:creator>Ann</dc:creator></c>",
        ),
    ])
}
