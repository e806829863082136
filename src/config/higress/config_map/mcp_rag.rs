//! `config` of an MCP server of type `rag` (Higress `mcp-server/servers/rag/config`). The gateway has the store and the
//! sentence model that Higress' server goes elsewhere for, so much of it has no effect, which is said.

use crate::config::fields::Fields;
use crate::config::model::RagServer;

/// Milvus collection of Higress' server where none is named, and where its name is empty.
const DEFAULT_COLLECTION: &str = "rag";
const UNNAMED_COLLECTION: &str = "document";

/// Characters that a chunk of a knowledge base may have; its overlap is at most half of it.
const CHUNK_SIZES: std::ops::RangeInclusive<usize> = 50..=20_000;

/// `None` if there is no knowledge base that could be meant, which has been reported.
pub(super) fn read(mut fields: Fields<'_>) -> Option<RagServer> {
    let knowledge_base = knowledge_base(&mut fields);
    let mut server = RagServer::new(knowledge_base.as_deref().unwrap_or_default());
    if let Some(rag) = fields.object("rag") {
        read_rag(rag, &mut server);
    }
    if let Some(mut embedding) = fields.object("embedding") {
        let keys = ["provider", "api_key", "base_url", "model", "dimensions", "dimension"];
        unused(&mut embedding, &keys, "text is embedded by the gateway's own model");
        embedding.finish();
    }
    if let Some(mut llm) = fields.object("llm") {
        let keys = ["provider", "api_key", "base_url", "model", "temperature", "max_tokens"];
        unused(&mut llm, &keys, "`chat` answers as `weirgate rag ask` does");
        llm.finish();
    }
    fields.finish();
    knowledge_base.map(|_| server)
}

fn read_rag(mut rag: Fields<'_>, server: &mut RagServer) {
    if let Some(splitter) = rag.object("splitter") {
        read_splitter(splitter, server);
    }
    if let Some(top_k) = rag.integer::<usize>("top_k") {
        server.top_k = top_k.clamp(1, RagServer::MAX_TOP_K);
        if server.top_k != top_k {
            let place = rag.path_of("top_k");
            rag.report()
                .warn(&place, format!("{top_k} is not from 1 to {}; {} is used", RagServer::MAX_TOP_K, server.top_k));
        }
    }
    match rag.value("threshold").map(serde_json::Value::as_f64) {
        None => {}
        Some(Some(threshold)) => server.threshold = Some(threshold),
        Some(None) => rag.report().error(&rag.path_of("threshold"), "must be a number"),
    }
    server.read_only = rag.boolean("read_only").unwrap_or(false);
    rag.finish();
}

fn read_splitter(mut splitter: Fields<'_>, server: &mut RagServer) {
    let report = splitter.report();
    server.chunk_size = splitter.integer::<usize>("chunk_size");
    server.chunk_overlap = splitter.integer::<usize>("chunk_overlap");
    match splitter.text("provider") {
        None | Some("" | "recursive") => {}
        // As near to "never" as a knowledge base comes.
        Some("nosplitter") => (server.chunk_size, server.chunk_overlap) = (Some(*CHUNK_SIZES.end()), Some(0)),
        Some(other) => report.warn(
            &splitter.path_of("provider"),
            format!("`{other}` is neither recursive nor nosplitter; text is cut as with recursive"),
        ),
    }
    if let Some(size) = server.chunk_size {
        let nearest = size.clamp(*CHUNK_SIZES.start(), *CHUNK_SIZES.end());
        if nearest != size {
            report.warn(
                &splitter.path_of("chunk_size"),
                format!("{size} is not from 50 to 20,000 characters; {nearest} is used"),
            );
        }
        server.chunk_size = Some(nearest);
        if let Some(overlap) = server.chunk_overlap.filter(|overlap| *overlap > nearest / 2) {
            let place = splitter.path_of("chunk_overlap");
            report.warn(&place, format!("{overlap} is more than half a chunk; {} is used", nearest / 2));
            server.chunk_overlap = Some(nearest / 2);
        }
    } else if server.chunk_overlap.is_some() {
        report.warn(&splitter.path_of("chunk_overlap"), "has no effect without chunk_size");
        server.chunk_overlap = None;
    }
    splitter.finish();
}

/// The collection's name, under either spelling of the block.
fn knowledge_base(fields: &mut Fields<'_>) -> Option<String> {
    let (ours, alias) = (fields.object("vectordb"), fields.object("vector_db"));
    if ours.is_some()
        && let Some(alias) = &alias
    {
        alias.report().warn(alias.path(), "has no effect: vectordb is there too, and is the one that counts");
    }
    let Some(mut database) = ours.or(alias) else { return Some(DEFAULT_COLLECTION.to_owned()) };
    let keys = ["provider", "host", "port", "database", "username", "password", "mapping"];
    unused(&mut database, &keys, "documents lie in the gateway's own knowledge bases; `collection` names the one");
    let place = database.path_of("collection");
    let name = match database.text("collection") {
        None => DEFAULT_COLLECTION,
        Some("") => UNNAMED_COLLECTION,
        Some(name) => name,
    };
    let report = database.report();
    database.finish();
    if !is_name(name) {
        report.error(
            &place,
            format!("\"{name}\" cannot name a knowledge base: use 1 to 64 letters, digits, '-', '_' and '.', and begin with a letter or digit"),
        );
        return None;
    }
    Some(name.to_owned())
}

/// As `rag::store` has it.
fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
    name.len() <= 64 && name.chars().all(is_plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Names those of the fields that are there, and says why they have no effect.
fn unused(fields: &mut Fields<'_>, keys: &[&'static str], why: &str) {
    let there: Vec<&str> = keys.iter().copied().filter(|key| fields.value(key).is_some()).collect();
    if !there.is_empty() {
        let has = if there.len() == 1 { "has" } else { "have" };
        fields.report().warn(fields.path(), format!("{} {has} no effect: {why}", there.join(", ")));
    }
}
