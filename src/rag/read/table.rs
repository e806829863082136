//! CSV and TSV: a header row, then one document per row. The delimiter is found out where the format does not fix it.

use std::collections::HashSet;

use csv::{ReaderBuilder, StringRecord, Trim};

use super::error::ReadError;
use super::row::Rows;
use super::{Limits, blocks};
use crate::rag::document::Document;

const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// Rows that are looked at to find the delimiter.
const SAMPLE_ROWS: usize = 20;

/// # Errors
/// The first row does not name the columns, a row has another number of fields, the last one never closes a quote (it may hold
/// all that follows), or two rows have the same id.
pub fn read(text: &str, delimiter: Option<u8>, limits: &Limits) -> Result<Vec<Document>, ReadError> {
    let text = text.trim_start_matches('\u{feff}');
    let delimiter = delimiter.unwrap_or_else(|| likely_delimiter(text));
    let mut reader = builder(delimiter).from_reader(text.as_bytes());
    let mut records = reader.records();
    let header = match records.next() {
        Some(Ok(record)) => columns(&record)?,
        Some(Err(error)) => return Err(ReadError::BadHeader { what: format!("it cannot be read ({error})") }),
        None => return Err(ReadError::Empty),
    };
    let mut rows = Rows::new(limits);
    let mut last = None;
    // Numbered as in a spreadsheet: the header is row 1.
    for (record, row) in records.zip(2..) {
        let record = record.map_err(|error| ReadError::BadRow { row, what: error.to_string() })?;
        last = record.position().map(|start| (row, start.byte()));
        if record.iter().all(str::is_empty) {
            continue;
        }
        let n_surplus = record.iter().skip(header.len()).filter(|field| !field.is_empty()).count();
        if record.len() < header.len() || n_surplus > 0 {
            return Err(ReadError::BadRow {
                row,
                what: format!(
                    "it has {} fields and the header {}; a field with a delimiter or line break inside needs quotes",
                    record.len(),
                    header.len()
                ),
            });
        }
        let fields = header.iter().cloned().zip(record.iter().map(str::to_owned)).collect();
        rows.push(row, fields)?;
    }
    match last {
        Some((row, start)) if leaves_a_quote_open(text, start, delimiter) => Err(ReadError::BadRow {
            row,
            what: "a quote is opened in it and never closed, so that it swallows the rest of the file; close it, or write \
                   a quote that belongs to the text twice, in a quoted field"
                .to_owned(),
        }),
        _ => Ok(rows.into_documents()),
    }
}

/// Whether a line more would belong to the row that begins at `start`, the last one. A quote that is open within its last line
/// swallows nothing.
fn leaves_a_quote_open(text: &str, start: u64, delimiter: u8) -> bool {
    let row = usize::try_from(start).ok().and_then(|start| text.get(start..)).unwrap_or_default().trim();
    row.contains('\n') && builder(delimiter).from_reader(format!("{row}\nx").as_bytes()).records().count() == 1
}

fn builder(delimiter: u8) -> ReaderBuilder {
    let mut builder = ReaderBuilder::new();
    builder.delimiter(delimiter).has_headers(false).flexible(true).trim(Trim::All);
    builder
}

fn columns(record: &StringRecord) -> Result<Vec<String>, ReadError> {
    let bad = |what: String| Err(ReadError::BadHeader { what });
    if record.iter().all(|name| name.parse::<f64>().is_ok() || name.is_empty()) {
        return bad("it holds only numbers".to_owned());
    }
    let mut names: Vec<String> = Vec::with_capacity(record.len());
    let mut known: HashSet<String> = HashSet::with_capacity(record.len());
    for (name, n) in record.iter().zip(1..) {
        // Exports of data frames leave the column of row numbers without a name.
        let name = if name.is_empty() { format!("column{n}") } else { blocks::clean(name) };
        if !known.insert(name.clone()) {
            return bad(format!("it names two columns {name:?}"));
        }
        names.push(name);
    }
    Ok(names)
}

/// The delimiter that parts most of the first rows into the same number of fields as the header, and into most fields.
fn likely_delimiter(text: &str) -> u8 {
    let score = |delimiter: u8| {
        let mut reader = builder(delimiter).from_reader(text.as_bytes());
        let sizes: Vec<usize> = reader.records().take(SAMPLE_ROWS).map_while(|r| r.ok().map(|r| r.len())).collect();
        let n_fields = sizes.first().copied().unwrap_or(0);
        let n_alike = sizes.iter().filter(|size| **size == n_fields).count();
        (n_fields > 1, n_alike, n_fields)
    };
    // Of equals the first in the list wins, so the last that is at least as good in reverse.
    DELIMITERS.into_iter().rev().max_by_key(|delimiter| score(*delimiter)).unwrap_or(b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<Document> {
        read(text, None, &Limits::default()).unwrap()
    }

    fn error(text: &str) -> String {
        read(text, None, &Limits { max_documents: 3, ..Limits::default() }).unwrap_err().to_string()
    }

    #[test]
    fn id_title_and_text_are_recognised_and_the_rest_is_metadata() {
        for text in [
            "id,title,text,lang\na7,Weir,\"A weir, or low head dam\",en\n",
            "ID;Name;Content;lang\r\na7;Weir;A weir, or low head dam;en\r\n",
            "\u{feff}id\ttitle\tbody\tlang\na7\tWeir\tA weir, or low head dam\ten",
            "id|title|text|lang\n\na7|Weir|A weir, or low head dam|en",
        ] {
            let documents = rows(text);
            let [document] = documents.as_slice() else { panic!("{text:?}: {documents:?}") };
            assert_eq!((document.key.as_str(), document.title.as_str()), ("a7", "Weir"), "{text:?}");
            assert_eq!(document.blocks[0].text, "A weir, or low head dam");
            assert_eq!(document.metadata.iter().next().unwrap(), (&"lang".to_owned(), &"en".to_owned()));
        }
    }

    #[test]
    fn without_a_text_column_the_row_is_written_out() {
        let documents = rows("name,height\nWeir,3 m\nDam,\n");
        let found: Vec<_> = documents.iter().map(|d| (d.key.as_str(), d.title.as_str(), &d.blocks[0])).collect();
        assert_eq!((found[0].0, found[0].1, found[0].2.text.as_str()), ("2", "Weir", "name: Weir; height: 3 m"));
        assert_eq!((found[1].0, found[1].2.text.as_str()), ("3", "name: Dam"));
        assert_eq!(documents[0].metadata["height"], "3 m");
    }

    #[test]
    fn quotes_that_close_may_hold_lines_and_stray_ones_swallow_nothing() {
        for (text, n_rows) in [
            ("id,text\n1,\"a\n2,b\"\n\n", 1),
            ("id,text\n1,\"a\nb\"\n2,5\" pipe", 2),
            ("id,text\n1,5\" pipe\n2,b\n", 2),
            ("id,text\n1,\"a\n", 1),
        ] {
            assert_eq!(rows(text).len(), n_rows, "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_table_is_named_with_its_row() {
        for (text, parts) in [
            ("id,text\n1,a\n2\n", &["row 3", "1 fields", "header 2", "quotes"][..]),
            ("id,text\n1,a\n2,b,c\n", &["row 3", "3 fields"]),
            ("id,text\n1,a\n2,b\n1,c\n", &["rows 2 and 4", "\"1\"", "ids"]),
            ("1,2\n3,4\n", &["first row", "only numbers"]),
            ("id,text\n1,\"a\n2,b\n3,c\n", &["row 2", "never closed"]),
            ("id,text,text\n1,a,b\n", &["first row", "\"text\""]),
            ("text\na\nb\nc\nd\n", &["more than 3 rows"]),
        ] {
            let error = error(text);
            assert!(parts.iter().all(|part| error.contains(part)), "{text:?}: {error}");
        }
    }
}
