//! `/v1/files`: uploads in OpenAI's shape, to be attached to vector stores.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use multer::{Multipart, parse_boundary};
use serde_json::{Value, json};

use super::{ApiRequest, ApiResponse, ok, openai_error, page, parts};
use crate::rag::RagError;
use crate::rag::files::{FileInfo, Files};
use crate::rag::knowledge_base::Rag;
use crate::rag::store::Filter;

/// An answer: JSON, or the bytes of a file.
pub enum FilesAnswer {
    Json(ApiResponse),
    Content(Bytes),
}

/// Answers one request of the operator; its path is below `/v1/files`. Errors have OpenAI's shape.
pub async fn handle(rag: &Rag, files: &Files, request: ApiRequest) -> FilesAnswer {
    let answer = answer(rag, files, &request).await;
    answer.unwrap_or_else(|error| FilesAnswer::Json(openai_error(&error)))
}

async fn answer(rag: &Rag, files: &Files, request: &ApiRequest) -> Result<FilesAnswer, RagError> {
    let path = parts(request)?;
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let json = match (request.method.as_str(), path.as_slice()) {
        ("POST", []) => upload(files, request).await?,
        ("GET", []) => list(files, request).await?,
        ("GET", [id]) => ok(shown(&files.info(id).await?))?,
        ("DELETE", [id]) => remove(rag, files, id).await?,
        ("GET", [id, "content"]) => return Ok(FilesAnswer::Content(files.content(id).await?.into())),
        _ => return Err(RagError::NoPath(format!("there is no {} /v1/files/{}", request.method, request.path))),
    };
    Ok(FilesAnswer::Json(json))
}

fn shown(file: &FileInfo) -> Value {
    json!({
        "id": file.id, "object": "file", "bytes": file.bytes, "created_at": file.created_at, "filename": file.filename,
        "purpose": file.purpose, "status": "processed", "status_details": null, "expires_at": null,
    })
}

async fn upload(files: &Files, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    let boundary = request.content_type.as_deref().and_then(|media_type| parse_boundary(media_type).ok());
    let boundary = boundary.ok_or_else(|| {
        RagError::Invalid("a file is uploaded as multipart/form-data with the fields file and purpose".to_owned())
    })?;
    let body = request.body.clone();
    let mut parts = Multipart::new(stream::once(async { Ok::<_, Infallible>(body) }), boundary);
    let (mut file, mut purpose) = (None, None);
    let broken = |error: multer::Error| RagError::Invalid(format!("the form: {error}"));
    while let Some(part) = parts.next_field().await.map_err(broken)? {
        match part.name() {
            Some("file") => {
                let name = base_name(part.file_name().unwrap_or_default()).to_owned();
                file = Some((name, part.bytes().await.map_err(broken)?));
            }
            Some("purpose") => purpose = Some(part.text().await.map_err(broken)?),
            other => {
                let name = other.unwrap_or_default().to_owned();
                return Err(RagError::Invalid(format!("{name}: has no meaning here; file and purpose have")));
            }
        }
    }
    let (name, bytes) = file.ok_or_else(|| RagError::Invalid("file: is missing".to_owned()))?;
    if name.is_empty() || name.len() > 255 || name.contains(char::is_control) {
        return Err(RagError::Invalid(
            "file: needs a filename of 1 to 255 bytes, whose ending tells what kind it is".to_owned(),
        ));
    }
    let purpose = purpose.filter(|purpose| !purpose.is_empty());
    let purpose = purpose.ok_or_else(|| RagError::Invalid("purpose: is required, such as assistants".to_owned()))?;
    ok(shown(&files.store(&name, &purpose, &bytes).await?))
}

/// Some clients send where the file lies with them.
fn base_name(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or_default()
}

async fn list(files: &Files, request: &ApiRequest) -> Result<ApiResponse, RagError> {
    let mut found = files.list().await?;
    if let Some(purpose) = request.query_field("purpose") {
        found.retain(|file| file.purpose == purpose);
    }
    page(request, found.iter().map(shown).collect())
}

/// Deletes a file, and first what knowledge bases have of it.
async fn remove(rag: &Rag, files: &Files, id: &str) -> Result<ApiResponse, RagError> {
    files.info(id).await?;
    for name in rag.names().await? {
        // One that cannot be read shows its documents to nobody.
        if let Err(error) = remove_from(rag, &name, id).await {
            tracing::warn!(knowledge_base = name, file = id, %error, "A deleted file could not be taken out of a knowledge base");
        }
    }
    files.remove(id).await?;
    ok(json!({"id": id, "object": "file", "deleted": true}))
}

async fn remove_from(rag: &Rag, name: &str, id: &str) -> Result<(), RagError> {
    let base = rag.base(name).await?;
    let documents = base.table().documents(&of_file(id)).await?;
    let ids: Vec<String> = documents.into_iter().map(|document| document.id).collect();
    base.table().remove(&ids).await
}

/// Metadata of a document that came from an uploaded file: its id and its name.
pub const FILE_ID: &str = "file_id";
pub const FILENAME: &str = "filename";

/// The documents of all tenants that came from an uploaded file.
pub fn of_file(id: &str) -> Filter {
    Filter { metadata: [(FILE_ID.to_owned(), id.to_owned())].into(), ..Filter::everything() }
}
