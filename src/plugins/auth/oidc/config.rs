//! The options, named as in oauth2-proxy.

use std::time::Duration;

use http::Uri;

use super::session::{Cookies, Sealer};
use crate::base::secret::Secret;
use crate::config::Severity;
use crate::plugins::auth::clock::go_duration;
use crate::plugins::auth::consumers::required;
use crate::plugins::auth::matching::{self, MatchRules};
use crate::plugins::config::{FieldProblem, Fields};
use crate::plugins::registry::Scope;
use crate::plugins::{Destination, Request};

pub struct Config {
    pub issuer: String,
    pub client_id: String,
    pub client_secret: Secret,
    pub scope: String,
    /// The service the issuer is called through; `None` calls its URL.
    pub service: Option<Destination>,
    /// Host header for that service, if it is not the issuer's.
    pub service_host: Option<String>,
    pub discovery_timeout: Duration,
    pub redeem_timeout: Duration,
    /// Beginning of the plugin's own paths.
    pub prefix: String,
    redirect_url: Option<Uri>,
    whitelist_domains: Vec<String>,
    pub pass_authorization_header: bool,
    pub pass_access_token: bool,
    pub matches: MatchRules,
    pub sealer: Sealer,
    pub cookies: Cookies,
    /// Seconds after which tokens are renewed; zero never does.
    pub refresh: i64,
    /// Seconds a login may take; `None` ends with the browser.
    pub login_expire: Option<i64>,
    login_per_request: bool,
    /// Further parameters of the provider's login page.
    pub asks: Vec<(&'static str, String)>,
}

impl Config {
    pub fn read(scope: &Scope<'_>) -> (Option<Config>, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let config = read(&mut fields);
        (config, fields.finish())
    }

    /// The path that the provider sends users back to.
    pub fn callback_path(&self) -> String {
        let path = self.redirect_url.as_ref().map(Uri::path).filter(|path| *path != "/");
        path.map_or_else(|| format!("{}/callback", self.prefix), str::to_owned)
    }

    /// What sealed values are for: those of another provider or client are none of ours, whatever the secret.
    pub fn purpose(&self, cookie: &str) -> String {
        format!("{cookie}\n{}\n{}", self.issuer, self.client_id)
    }

    /// Where the provider sends users back to.
    pub fn callback_url(&self, request: &Request<'_>) -> String {
        let path = self.callback_path();
        match self.redirect_url.as_ref().and_then(|url| Some((url.scheme_str()?, url.authority()?))) {
            Some((scheme, authority)) => format!("{scheme}://{authority}{path}"),
            None => {
                let scheme = if self.cookies.secure || request.state.is_tls { "https" } else { "http" };
                format!("{scheme}://{}{path}", request.header("host").unwrap_or(&request.state.host))
            }
        }
    }

    /// Name of the cookie that a login under way is kept in.
    pub fn login_cookie(&self, state: &str) -> String {
        let own: String = state.chars().take(8).filter(char::is_ascii_alphanumeric).collect();
        match self.login_per_request {
            true => format!("{}_csrf_{own}", self.cookies.name),
            false => format!("{}_csrf", self.cookies.name),
        }
    }

    /// Whether users may be sent there: a path here, or a URL of a listed domain.
    pub fn may_redirect(&self, url: &str) -> bool {
        if url.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return false;
        }
        if url.starts_with('/') {
            return !url.starts_with("//");
        }
        let Ok(url) = url.parse::<Uri>() else { return false };
        let (Some("http" | "https"), Some(host)) = (url.scheme_str(), url.host()) else { return false };
        self.whitelist_domains.iter().any(|allowed| is_allowed(allowed, host, url.port_u16()))
    }

    /// Whether it is a page of the provider, such as the one that signs users out there.
    pub fn is_of_issuer(&self, url: &str) -> bool {
        let authority = |url: &str| {
            Some((url.parse::<Uri>().ok()?.scheme_str()?.to_owned(), url.parse::<Uri>().ok()?.authority()?.clone()))
        };
        authority(url).is_some_and(|own| Some(own) == authority(&self.issuer))
    }
}

/// `a.com`, `.a.com` and `*.a.com` (the latter two with everything below), each with a port, or `:*` for any.
fn is_allowed(allowed: &str, host: &str, port: Option<u16>) -> bool {
    let (domain, allowed_port) = allowed.rsplit_once(':').unwrap_or((allowed, ""));
    let fits_port = match (allowed_port, port) {
        ("*", _) => true,
        (allowed, Some(port)) => allowed.parse() == Ok(port),
        (allowed, None) => allowed.is_empty(),
    };
    let parent = domain.strip_prefix('*').unwrap_or(domain).strip_prefix('.');
    let fits_host = match parent {
        Some(parent) => host == parent || host.strip_suffix(parent).is_some_and(|sub| sub.ends_with('.')),
        None => host == domain,
    };
    fits_port && fits_host && !domain.is_empty()
}

fn read(fields: &mut Fields<'_>) -> Option<Config> {
    if let Some(other) = fields.string("provider").filter(|provider| *provider != "oidc") {
        fields.add(Severity::Outage, "provider", format!("\"{other}\" is not known here; only oidc is"));
    }
    let issuer = required(fields, "oidc_issuer_url");
    if let Some(url) = &issuer
        && url.parse::<Uri>().ok().is_none_or(|url| url.host().is_none())
    {
        fields.problem("oidc_issuer_url", format!("\"{url}\" is no URL"));
    }
    let client_id = required(fields, "client_id");
    let client_secret = secret(fields, "client_secret");
    let scope = fields.string("scope").filter(|scope| !scope.is_empty()).unwrap_or("openid email profile");
    let scope = scope.replace(';', " ");
    let service = match fields.get("service_name") {
        Some(_) => matching::service(fields, None).map(|(host, port)| Destination::Service { host, port: Some(port) }),
        None => None,
    };
    let service_host = fields.string("service_host").filter(|host| !host.is_empty()).map(str::to_owned);
    let mut millis = |key| Duration::from_millis(fields.count(key).filter(|ms| *ms != 0).unwrap_or(2000));
    let (discovery_timeout, redeem_timeout) = (millis("oidc_verifier_request_timeout"), millis("redeem_timeout"));
    let prefix = fields.string("proxy_prefix").unwrap_or("/oauth2").trim_end_matches('/').to_owned();
    let redirect_url = fields.string("redirect_url").filter(|url| !url.is_empty()).and_then(|url| {
        let parsed = url.parse::<Uri>();
        parsed.map_err(|error| fields.problem("redirect_url", format!("\"{url}\" is no URL: {error}"))).ok()
    });
    let same_site = match fields.string("cookie_samesite").unwrap_or_default() {
        "" => None,
        "lax" => Some("Lax"),
        "strict" => {
            let message =
                "strict: browsers do not send such cookies on the way back from the provider, so that nobody gets in";
            fields.warn("cookie_samesite", message);
            Some("Strict")
        }
        "none" => Some("None"),
        other => {
            fields.problem("cookie_samesite", format!("\"{other}\" is not one of lax, strict, none or empty"));
            None
        }
    };
    let expire = seconds(fields, "cookie_expire", 168 * 3600);
    let cookies = Cookies {
        name: fields.string("cookie_name").unwrap_or("_oauth2_proxy").to_owned(),
        domains: texts(fields, "cookie_domains"),
        path: fields.string("cookie_path").unwrap_or("/").to_owned(),
        expire: (expire > 0).then_some(expire),
        secure: fields.boolean("cookie_secure").unwrap_or(true),
        http_only: fields.boolean("cookie_httponly").unwrap_or(true),
        same_site,
    };
    if cookies.secure && redirect_url.as_ref().is_some_and(|url| url.scheme_str() == Some("http")) {
        let message = "is http, over which browsers do not send the login's cookie while cookie_secure is true";
        fields.warn("redirect_url", message);
    }
    let refresh = seconds(fields, "cookie_refresh", 0);
    let login_expire = Some(seconds(fields, "cookie_csrf_expire", 15 * 60)).filter(|seconds| *seconds > 0);
    let sealer = secret(fields, "cookie_secret").and_then(|secret| {
        let sealer = Sealer::new(&secret);
        sealer.map_err(|why| fields.problem("cookie_secret", why)).ok()
    });
    let whitelist_domains = texts(fields, "whitelist_domains");
    let login_per_request = fields.boolean("cookie_csrf_per_request").unwrap_or(false);
    let pass_authorization_header = fields.boolean("pass_authorization_header").unwrap_or(true);
    let pass_access_token = fields.boolean("pass_access_token").unwrap_or(false);
    let matches = MatchRules::read(fields);
    // Higress lets nobody in with them unless the provider tells groups in its way; here they would let everybody in.
    for key in ["allowed_groups", "allowed_roles"] {
        if !texts(fields, key).is_empty() {
            fields.add(Severity::Outage, key, "is not known to this gateway, which would let everybody in".to_owned());
        }
    }
    let asks: Vec<(&'static str, String)> = [("approval_prompt", "force"), ("prompt", ""), ("acr_values", "")]
        .map(|(key, default)| (key, fields.string(key).unwrap_or(default).to_owned()))
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect();
    // As in oauth2-proxy, the newer one takes the place of the older.
    let has_prompt = asks.iter().any(|(key, _)| *key == "prompt");
    let asks = asks.into_iter().filter(|(key, _)| !(has_prompt && *key == "approval_prompt")).collect();
    // PKCE is always used; the option is known so that configurations with it are.
    if let Some(method) = fields.string("code_challenge_method").filter(|method| *method != "S256") {
        fields.problem("code_challenge_method", format!("\"{method}\" is not S256, the method used"));
    }
    Some(Config {
        issuer: issuer?,
        client_id: client_id?,
        client_secret: client_secret?,
        scope,
        service,
        service_host,
        discovery_timeout,
        redeem_timeout,
        prefix,
        redirect_url,
        whitelist_domains,
        pass_authorization_header,
        pass_access_token,
        matches,
        sealer: sealer?,
        cookies,
        refresh,
        login_expire,
        login_per_request,
        asks,
    })
}

fn secret(fields: &mut Fields<'_>, key: &'static str) -> Option<Secret> {
    let n_problems = fields.problems.len();
    let secret = fields.secret(key).filter(|secret| !secret.is_empty());
    if secret.is_none() && fields.problems.len() == n_problems {
        fields.problem(key, "must be given");
    }
    secret
}

/// A text, or a list of them.
fn texts(fields: &mut Fields<'_>, key: &'static str) -> Vec<String> {
    match fields.get(key).and_then(serde_json::Value::as_str) {
        Some(one) => one.split(',').map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect(),
        None => fields.strings(key).unwrap_or_default(),
    }
}

/// A duration, in seconds: text, or as Go reads a number, nanoseconds.
fn seconds(fields: &mut Fields<'_>, key: &'static str, default: i64) -> i64 {
    if let Some(nanos) = fields.get(key).and_then(serde_json::Value::as_u64) {
        return i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX);
    }
    let Some(text) = fields.string(key) else { return default };
    let parsed = if text == "0" { Some(Duration::ZERO) } else { go_duration(text) };
    let seconds = parsed.and_then(|duration| i64::try_from(duration.as_secs()).ok());
    seconds.unwrap_or_else(|| {
        fields.problem(key, format!("\"{text}\" is no duration such as 168h or 15m"));
        default
    })
}
