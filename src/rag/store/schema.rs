//! The columns of a knowledge base, and rows to and from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::builder::{FixedSizeListBuilder, Float32Builder};
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use super::Layout;
use crate::rag::RagError;

/// A chunk with what the search needs, as written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    pub passage: Passage,
    /// What the words are looked up in: the terms of header and text.
    pub terms: String,
    /// `None` where the base has no vectors, and for text the embedding model cannot read.
    pub vector: Option<Vec<f32>>,
    pub tenant: Option<String>,
}

/// A chunk as it is given out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passage {
    /// `<document>#<index>`.
    pub id: String,
    pub document: String,
    /// Position in the document, from 0, and how many there are.
    pub index: u32,
    pub n_chunks: u32,
    pub title: String,
    pub header: String,
    pub text: String,
    pub metadata: BTreeMap<String, String>,
    /// Hash of what the document was made from; the same hash again needs no work.
    pub hash: String,
    /// Unix time in milliseconds.
    pub created_at: i64,
}

/// Columns of a passage, in the order [`passages`] reads them.
pub const PASSAGE: [&str; 10] =
    ["id", "document", "index", "n_chunks", "title", "header", "text", "metadata", "hash", "created_at"];

/// The column of vectors.
pub const VECTOR: &str = "vector";

/// Key of the layout in the schema's metadata.
const LAYOUT: &str = "weirgate.layout";
/// Key of the settings that the table was made with.
pub const FIRST_SETTINGS: &str = "weirgate.first_settings";

/// # Errors
/// The layout cannot be written down, which no layout is known to do.
pub fn schema(layout: &Layout, settings: &str) -> Result<SchemaRef, RagError> {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let number = |name: &str| Field::new(name, DataType::UInt32, false);
    let mut fields = vec![
        text("id"),
        text("document"),
        number("index"),
        number("n_chunks"),
        text("title"),
        text("header"),
        text("text"),
        text("metadata"),
        text("hash"),
        Field::new("created_at", DataType::Int64, false),
        text("terms"),
        Field::new("tenant", DataType::Utf8, true),
    ];
    if layout.dimensions > 0 {
        fields.push(Field::new(VECTOR, vector_type(layout.dimensions), true));
    }
    let layout = serde_json::to_string(layout).map_err(|error| RagError::Failed(error.to_string()))?;
    let metadata = [(LAYOUT.to_owned(), layout), (FIRST_SETTINGS.to_owned(), settings.to_owned())];
    Ok(Arc::new(Schema::new(fields).with_metadata(metadata.into())))
}

/// The layout a table was made with.
///
/// # Errors
/// The table was made by something else.
pub fn layout(schema: &Schema) -> Result<Layout, RagError> {
    let written = schema.metadata().get(LAYOUT);
    let layout = written.and_then(|text| serde_json::from_str(text).ok());
    layout.ok_or_else(|| RagError::Failed("the table was not made by this program: it has no layout".to_owned()))
}

fn vector_type(dimensions: usize) -> DataType {
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    DataType::FixedSizeList(item, i32::try_from(dimensions).unwrap_or(i32::MAX))
}

/// Rows as one batch.
///
/// # Errors
/// A vector has another length than the layout says.
pub fn batch(layout: &Layout, schema: &SchemaRef, rows: &[Row]) -> Result<RecordBatch, RagError> {
    let text =
        |of: fn(&Row) -> &str| Arc::new(rows.iter().map(|row| Some(of(row))).collect::<StringArray>()) as ArrayRef;
    let number = |of: fn(&Row) -> u32| Arc::new(rows.iter().map(of).collect::<UInt32Array>()) as ArrayRef;
    let metadata: StringArray = rows.iter().map(|row| serde_json::to_string(&row.passage.metadata).ok()).collect();
    let mut columns: Vec<ArrayRef> = vec![
        text(|row| &row.passage.id),
        text(|row| &row.passage.document),
        number(|row| row.passage.index),
        number(|row| row.passage.n_chunks),
        text(|row| &row.passage.title),
        text(|row| &row.passage.header),
        text(|row| &row.passage.text),
        Arc::new(metadata),
        text(|row| &row.passage.hash),
        Arc::new(rows.iter().map(|row| row.passage.created_at).collect::<Int64Array>()),
        text(|row| &row.terms),
        Arc::new(rows.iter().map(|row| row.tenant.as_deref()).collect::<StringArray>()),
    ];
    if layout.dimensions > 0 {
        columns.push(Arc::new(vectors(layout, rows)?));
    }
    RecordBatch::try_new(schema.clone(), columns).map_err(|error| RagError::Failed(error.to_string()))
}

fn vectors(layout: &Layout, rows: &[Row]) -> Result<FixedSizeListArray, RagError> {
    let width = i32::try_from(layout.dimensions).unwrap_or(i32::MAX);
    let mut builder = FixedSizeListBuilder::with_capacity(Float32Builder::new(), width, rows.len());
    for row in rows {
        match &row.vector {
            Some(vector) if vector.len() == layout.dimensions => builder.values().append_slice(vector),
            Some(vector) => {
                let (expected, found) = (layout.dimensions, vector.len());
                return Err(RagError::Dimensions { model: layout.model.clone(), expected, found });
            }
            None => builder.values().append_nulls(layout.dimensions),
        }
        builder.append(row.vector.is_some());
    }
    Ok(builder.finish())
}

/// The passages of a batch that has the columns of [`PASSAGE`].
///
/// # Errors
/// A column is missing or of another type.
pub fn passages(batch: &RecordBatch) -> Result<Vec<Passage>, RagError> {
    let [id, document] = ["id", "document"].map(|name| column::<StringArray>(batch, name));
    let (id, document) = (id?, document?);
    let (title, header, text) = (
        column::<StringArray>(batch, "title")?,
        column::<StringArray>(batch, "header")?,
        column::<StringArray>(batch, "text")?,
    );
    let (metadata, hash) = (column::<StringArray>(batch, "metadata")?, column::<StringArray>(batch, "hash")?);
    let (index, n_chunks) = (column::<UInt32Array>(batch, "index")?, column::<UInt32Array>(batch, "n_chunks")?);
    let created_at = column::<Int64Array>(batch, "created_at")?;
    let row = |at: usize| Passage {
        id: id.value(at).to_owned(),
        document: document.value(at).to_owned(),
        index: index.value(at),
        n_chunks: n_chunks.value(at),
        title: title.value(at).to_owned(),
        header: header.value(at).to_owned(),
        text: text.value(at).to_owned(),
        metadata: serde_json::from_str(metadata.value(at)).unwrap_or_default(),
        hash: hash.value(at).to_owned(),
        created_at: created_at.value(at),
    };
    Ok((0..batch.num_rows()).map(row).collect())
}

/// A column by name and type.
///
/// # Errors
/// The batch has none of that name and type.
pub fn column<'a, T: Array + 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a T, RagError> {
    let column = batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref::<T>());
    column.ok_or_else(|| RagError::Failed(format!("the table has no column \"{name}\" of the type it should have")))
}

/// The row numbers of a batch that was asked for them.
///
/// # Errors
/// It was not.
pub fn rows(batch: &RecordBatch) -> Result<&UInt64Array, RagError> {
    column::<UInt64Array>(batch, "_rowid")
}

/// The numbers of a score or distance column; a missing value is `NaN`.
///
/// # Errors
/// The batch has no such column.
pub fn scores<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a Float32Array, RagError> {
    column::<Float32Array>(batch, name)
}
