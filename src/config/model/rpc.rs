//! Http2Rpc: HTTP requests as calls of a Dubbo service. Plain data like the rest of the model.

use serde::Serialize;

use super::Pattern;

/// An Http2Rpc: which HTTP requests mean which methods of a Dubbo service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DubboService {
    /// The Java interface.
    pub interface: String,
    /// May be empty.
    pub version: String,
    pub group: Option<String>,
    /// The first that takes a request counts; those with fewer variables in the path come first.
    pub methods: Vec<DubboMethod>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DubboMethod {
    pub name: String,
    /// Upper case.
    pub http_methods: Vec<String>,
    /// With one group for each of the variables.
    pub path: Pattern,
    pub variables: Vec<String>,
    pub headers: AttachedHeaders,
    pub params: Vec<DubboParam>,
}

/// Which headers go along as attachments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachedHeaders {
    None,
    All,
    Named(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DubboParam {
    pub source: ParamSource,
    /// Empty with [`ParamSource::Body`]: the whole body.
    pub key: String,
    pub java_type: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamSource {
    Query,
    Header,
    Path,
    Body,
}
