//! Where a provider is: host, path prefix and addresses, from its type and the fields that move it.

use serde_json::Value;

use super::fields::Fields;
use super::table::ProviderType;

/// The place a provider's requests go to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The `Host` to send; `None` keeps the client's.
    pub host: Option<String>,
    /// What stands in place of `/v1`.
    pub prefix: String,
    /// A complete path, from a custom URL that ends with one: used for the API it names.
    pub direct: Option<Direct>,
    /// Where to connect if no service says otherwise. More than one only if the configuration lists them.
    pub addresses: Vec<Address>,
}

/// A custom URL's path, such as `/api/v3/chat/completions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direct {
    pub path: String,
    /// The end by which it was recognised, such as `/completions`.
    pub suffix: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub tls: bool,
    /// Name or IP address; without brackets for IPv6.
    pub host: String,
    pub port: u16,
}

/// Ends of paths that make a custom URL complete.
const DIRECT: [&str; 10] = [
    "/completions",
    "/embeddings",
    "/audio/speech",
    "/images/generations",
    "/images/variations",
    "/images/edits",
    "/models",
    "/responses",
    "/fine_tuning/jobs",
    "/rerank",
];

impl Endpoint {
    /// Reads the fields that belong to `kind`, and `providerDomain`.
    pub(super) fn read(
        fields: &mut Fields<'_>,
        kind: &'static ProviderType,
        unsupported: &mut Vec<String>,
    ) -> Endpoint {
        for &name in kind.required_fields {
            if fields.value(name).is_none() {
                fields.error(name, format!("is missing; {} can't be reached without it", kind.name));
            }
        }
        let mut endpoint = Endpoint {
            host: Some(kind.host.to_owned()).filter(|host| !host.is_empty()),
            prefix: kind.prefix.to_owned(),
            ..Endpoint::default()
        };
        match kind.name {
            "openai" => {
                endpoint.custom_urls(fields, "openaiCustomUrl", "openaiExtraCustomUrls");
                // The console's way to say which service serves the URL; here the route does.
                let _ = (fields.value("openaiCustomServiceName"), fields.value("openaiCustomServicePort"));
            }
            "vllm" => {
                // Only a name: the port belongs to the service, not into the Host header.
                if let Some(host) = fields.string("vllmServerHost") {
                    endpoint.host = Some(host.split_once(':').map_or(host, |(host, _)| host).to_owned());
                }
                endpoint.custom_urls(fields, "vllmCustomUrl", "vllmExtraCustomUrls");
            }
            "ollama" => {
                let host = fields.string("ollamaServerHost").unwrap_or_default();
                let port = fields.count("ollamaServerPort").and_then(|port| u16::try_from(port).ok());
                match port {
                    Some(port) if !host.is_empty() => {
                        endpoint.host = Some(format!("{host}:{port}"));
                        endpoint.addresses = vec![Address { tls: false, host: host.to_owned(), port }];
                    }
                    Some(_) => {}
                    None => fields.error("ollamaServerPort", "must be a port from 1 to 65535"),
                }
            }
            "cloudflare" => {
                let account = fields.string("cloudflareAccountId").unwrap_or_default();
                endpoint.prefix = endpoint.prefix.replace("{cloudflareAccountId}", account);
            }
            "doubao" => endpoint.move_host(fields, "doubaoDomain"),
            "generic" => endpoint.move_host(fields, "genericHost"),
            "qwen" => {
                endpoint.move_host(fields, "qwenDomain");
                if fields.boolean("qwenEnableCompatible") == Some(false) {
                    let note =
                        "qwenEnableCompatible: DashScope's own protocol is not spoken; its compatible mode is used";
                    unsupported.push(note.to_owned());
                }
                if fields.boolean("qwenEnableSearch") == Some(true) {
                    unsupported.push("qwenEnableSearch: set enable_search with customSettings (mode raw)".to_owned());
                }
            }
            "zhipuai" => {
                endpoint.move_host(fields, "zhipuDomain");
                if fields.boolean("zhipuCodePlanMode") == Some(true) {
                    endpoint.prefix = "/api/coding/paas/v4".to_owned();
                }
            }
            "minimax" if fields.string("minimaxApiType").is_some_and(|api| api != "v2") => {
                fields.unsupported("minimaxApiType", "must be v2, the only one spoken");
            }
            _ => {}
        }
        if endpoint.addresses.is_empty()
            && let Some(host) = &endpoint.host
        {
            endpoint.addresses = vec![Address { tls: true, host: host.clone(), port: 443 }];
        }
        // Only the Host header: what is connected to stays (a proxy, usually).
        endpoint.move_host(fields, "providerDomain");
        endpoint
    }

    fn move_host<'a>(&mut self, fields: &mut Fields<'a>, name: &'a str) {
        if let Some(host) = fields.string(name) {
            if host.contains('/') || http::uri::Authority::try_from(host).is_err() {
                fields.error(name, "must be a host such as api.example.com, without scheme and path");
            }
            self.host = Some(host.to_owned());
        }
    }

    /// The custom URL gives host, path and first address; further URLs only addresses.
    fn custom_urls<'a>(&mut self, fields: &mut Fields<'a>, name: &'a str, extra: &'a str) {
        let Some(url) = fields.string(name) else {
            if fields.value(extra).is_some_and(|urls| urls != &Value::Array(Vec::new())) {
                fields.error(extra, format!("is set without {name}, which gives the path"));
            }
            return;
        };
        match parse_url(url) {
            Some((address, authority, path)) => {
                self.host = Some(authority);
                self.addresses = vec![address];
                self.set_path(path);
            }
            None => fields.error(name, BAD_URL),
        }
        for (i, url) in fields.strings(extra).iter().enumerate() {
            match parse_url(url) {
                Some((address, ..)) => self.addresses.push(address),
                None => fields.error(&format!("{extra}[{i}]"), BAD_URL),
            }
        }
    }

    fn set_path(&mut self, path: &str) {
        let path = path.trim_end_matches('/');
        let end = path.split_once('?').map_or(path, |(path, _)| path);
        let suffix = DIRECT.into_iter().find(|suffix| end.ends_with(suffix));
        self.direct = suffix.map(|suffix| Direct { path: path.to_owned(), suffix });
        // A complete path still tells where the other APIs are.
        let base = suffix.and_then(|suffix| end.strip_suffix(suffix)).unwrap_or(end);
        self.prefix = base.strip_suffix("/chat").filter(|_| suffix == Some("/completions")).unwrap_or(base).to_owned();
    }
}

const BAD_URL: &str = "must be a URL such as https://llm.example.com/v1";

/// Address, authority as written, and path with query. Without a scheme the port decides: 443, or none, means TLS.
fn parse_url(url: &str) -> Option<(Address, String, &str)> {
    let (tls, rest) = match url.split_once("://") {
        Some(("http", rest)) => (Some(false), rest),
        Some(("https", rest)) => (Some(true), rest),
        Some(_) => return None,
        None => (None, url),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let parsed = http::uri::Authority::try_from(authority).ok().filter(|_| !authority.contains('@'))?;
    let port = parsed.port_u16();
    if port.is_none() && parsed.as_str() != parsed.host() {
        return None;
    }
    let tls = tls.unwrap_or(matches!(port, None | Some(443)));
    let host = parsed.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let address = Address { tls, host, port: port.unwrap_or(if tls { 443 } else { 80 }) };
    Some((address, authority.to_owned(), path))
}
