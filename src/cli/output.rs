//! Standard output and standard error of commands. A closed pipe (`| head`) is the reader's choice and no error.

use std::io::Write;

use serde::Serialize;

/// One line on standard output.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// One message on standard error.
pub fn complain(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "weirgate: {message}");
}

/// A value as indented JSON on standard output.
pub fn say_json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => say(&text),
        Err(error) => complain(&format!("the result cannot be written as JSON: {error}")),
    }
}

/// Rows as aligned columns; the first row is the head.
pub fn table(rows: &[Vec<String>]) {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
            .collect();
        say(cells.join("  ").trim_end());
    }
}
