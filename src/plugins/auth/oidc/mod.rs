//! `oidc`: users log in at an OpenID provider (authorisation code with PKCE, state and nonce); the session lives in an encrypted
//! cookie. AUTHN phase, priority 350.
//!
//! | Path | What happens |
//! |---|---|
//! | `/oauth2/start?rd=` | the way to the provider |
//! | `/oauth2/callback` | the way back: the code becomes tokens, they become the session |
//! | `/oauth2/sign_out?rd=` | the session ends; `rd` may be the provider's own sign-out page |
//! | any other | with a session, on to the upstream with the tokens; without, 302 to the provider, or 401 to scripts |
//!
//! Behaviour and options are those of Higress' oidc (`plugins/wasm-go/extensions/oidc`, on higress-group/oauth2-proxy).
//!
//! Differences from Higress: PKCE (S256) and nonce are always used; an absolute `rd` must be in `whitelist_domains`; endpoints of the
//! provider on other hosts than the issuer's are called directly; `service_name` may be left out; a session of Higress is not
//! read, users log in once more; the only `provider` is `oidc`.

mod config;
mod provider;
mod renewals;
mod session;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, LOCATION, SET_COOKIE, UPGRADE};
use http::{HeaderName, HeaderValue};
use pingora_http::ResponseHeader;
use ring::digest;
use subtle::ConstantTimeEq as _;

use self::config::Config;
use self::provider::{Metadata, Provider};
use self::renewals::RENEWALS;
use self::session::{Login, Session};
use super::consumers::told;
use super::{clock, places};
use crate::config::model::Phase;
use crate::plugins::config::is_usable;
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{CredentialPlace, Flow, Host, Plugin, Reply, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "oidc",
    phase: Phase::Authn,
    priority: 350,
    family: Family::Go,
    summary: "users log in at an OpenID provider; the session is an encrypted cookie",
    build,
    check: |scope| Config::read(scope).1,
};

const ACCESS_TOKEN_HEADER: HeaderName = HeaderName::from_static("x-forwarded-access-token");
const REDIRECT_HEADER: &str = "x-auth-request-redirect";

struct Oidc {
    config: Config,
    provider: Provider,
}

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    match Config::read(scope) {
        (Some(config), problems) if is_usable(&problems) => {
            let provider = Provider::new(&config, host.clone());
            Ok(Some(Arc::new(Oidc { config, provider }) as Arc<dyn Plugin>))
        }
        (_, problems) => Err(problems),
    }
}

/// Cookies for the answer to a request that went on.
#[derive(Clone)]
struct Renewed(Vec<HeaderValue>);

#[async_trait]
impl Plugin for Oidc {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let own = match request.path() {
            path if path == self.config.callback_path() => Some("/callback".to_owned()),
            path => {
                path.strip_prefix(self.config.prefix.as_str()).filter(|own| own.starts_with('/')).map(str::to_owned)
            }
        };
        if own.is_none() && self.config.matches.leaves_out(request) {
            return Flow::Continue;
        }
        let metadata = match self.provider.metadata().await {
            Ok(metadata) => metadata,
            Err(reason) => {
                tracing::warn!(%reason, "The OpenID provider cannot be used");
                return Flow::respond(told(503, "oidc.verifier_unavailable", "OIDC verifier is unavailable"));
            }
        };
        match own.as_deref() {
            Some("/start") => self.start(request, &metadata, &self.wanted(request)),
            Some("/callback") => self.callback(request, &metadata).await,
            Some("/sign_out") => self.sign_out(request),
            _ => self.pass(request, &metadata).await,
        }
    }

    fn on_response_headers(&self, request: &mut Request<'_>, response: &mut ResponseHeader) {
        if let Some(Renewed(cookies)) = request.state.notes.remove::<Renewed>() {
            for cookie in cookies {
                // A header value already.
                let _ = response.append_header(SET_COOKIE, cookie);
            }
        }
    }
}

impl Oidc {
    /// A request of the application.
    async fn pass(&self, request: &mut Request<'_>, metadata: &Metadata) -> Flow {
        let Some(session) = self.session(request, metadata).await else {
            if is_no_page(request) {
                let text = "No valid authentication in request. Access Denied.";
                return Flow::respond(told(401, "oidc.no_session", text));
            }
            let path = request.head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
            return self.start(request, metadata, &path);
        };
        request.head.remove_header(&ACCESS_TOKEN_HEADER);
        // None of it is for model providers.
        let cookies = self.config.cookies.names(request).into_iter().map(CredentialPlace::Cookie);
        let authorization = self.config.pass_authorization_header.then_some(AUTHORIZATION);
        let headers = authorization.into_iter().chain([ACCESS_TOKEN_HEADER]);
        let headers = headers.map(|name| CredentialPlace::Header(name.to_string()));
        request.state.credentials.extend(cookies.chain(headers));
        let mut set = |name: HeaderName, value: String| {
            // Tokens are visible ASCII; one that is not is not passed on.
            let _ = request.head.insert_header(name, value);
        };
        if self.config.pass_authorization_header {
            set(AUTHORIZATION, format!("Bearer {}", session.id_token));
        }
        if self.config.pass_access_token {
            set(ACCESS_TOKEN_HEADER, session.access_token);
        }
        Flow::Continue
    }

    /// The session of a request, renewed if it is time to.
    async fn session(&self, request: &mut Request<'_>, metadata: &Metadata) -> Option<Session> {
        let now = clock::now();
        let config = &self.config;
        let session: Session =
            config.sealer.open(&config.purpose(&config.cookies.name), &config.cookies.read(request)?)?;
        let lifetime = config.cookies.expire.unwrap_or(i64::MAX);
        if now.saturating_sub(session.created) > lifetime {
            return None;
        }
        let refresh_token = session
            .refresh_token
            .as_ref()
            .filter(|_| config.refresh > 0 && now.saturating_sub(session.created) > config.refresh);
        let Some(refresh_token) = refresh_token else { return Some(session) };
        let renew = || self.provider.refresh(metadata, refresh_token, &session);
        match RENEWALS.once(&config.purpose(&config.cookies.name), refresh_token, renew).await {
            Ok(renewed) => {
                let sealed = config.sealer.seal(&config.purpose(&config.cookies.name), &renewed)?;
                request.state.notes.insert(Renewed(config.cookies.write(request, &sealed)?));
                Some(renewed)
            }
            Err(reason) => {
                tracing::warn!(%reason, "A session could not be renewed");
                self.provider.is_current(&session).then_some(session)
            }
        }
    }

    /// Sends the user to the provider; `wanted` is where to go afterwards.
    fn start(&self, request: &Request<'_>, metadata: &Metadata, wanted: &str) -> Flow {
        let Some(login) = Login::new(clock::now()) else {
            return Flow::respond(told(500, "oidc.no_random", "the system gives no random numbers"));
        };
        let config = &self.config;
        let challenge = digest::digest(&digest::SHA256, login.verifier.as_bytes());
        let mut to = form_urlencoded::Serializer::new(String::new());
        to.extend_pairs(&config.asks)
            .append_pair("client_id", &config.client_id)
            .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(challenge))
            .append_pair("code_challenge_method", "S256")
            .append_pair("nonce", &login.nonce)
            .append_pair("redirect_uri", &config.callback_url(request))
            .append_pair("response_type", "code")
            .append_pair("scope", &config.scope)
            .append_pair("state", &format!("{}:{wanted}", login.state));
        let joint = if metadata.authorization_endpoint.contains('?') { '&' } else { '?' };
        let location = format!("{}{joint}{}", metadata.authorization_endpoint, to.finish());
        let name = config.login_cookie(&login.state);
        let Some(sealed) = config.sealer.seal(&config.purpose(&name), &login) else {
            return Flow::respond(told(500, "oidc.no_random", "the system gives no random numbers"));
        };
        let cookie = config.cookies.one(&request.state.host, &name, &sealed, config.login_expire);
        Flow::respond(redirect(&location, vec![cookie]))
    }

    /// The user comes back with a code.
    async fn callback(&self, request: &mut Request<'_>, metadata: &Metadata) -> Flow {
        let query = request.head.uri.query().unwrap_or_default();
        let given: HashMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        // Hides it in the access log.
        request.state.credentials.push(CredentialPlace::Query("code".into()));
        match self.log_in(request, metadata, &given).await {
            Ok((wanted, cookies)) => Flow::respond(redirect(&wanted, cookies)),
            Err(reply) => Flow::respond(*reply),
        }
    }

    /// Where to go, and the cookies to set.
    async fn log_in(
        &self,
        request: &Request<'_>,
        metadata: &Metadata,
        given: &HashMap<String, String>,
    ) -> Result<(String, Vec<HeaderValue>), Box<Reply>> {
        let refuse = |status: u16, details: &str, text: String| Box::new(told(status, format!("oidc.{details}"), text));
        let config = &self.config;
        if let Some(error) = given.get("error") {
            let text = format!("Error while parsing OAuth2 callback: {error}");
            return Err(refuse(403, "provider_refused", text));
        }
        let state = given.get("state").and_then(|state| state.split_once(':'));
        let (state, wanted) =
            state.ok_or_else(|| refuse(403, "bad_state", "Error while parsing OAuth2 state: invalid length".into()))?;
        let name = config.login_cookie(state);
        let login = places::cookie(request, &name)
            .and_then(|sealed| config.sealer.open::<Login>(&config.purpose(&name), sealed));
        let lifetime = config.login_expire.unwrap_or(i64::MAX);
        let login = login.filter(|login| clock::now().saturating_sub(login.created) <= lifetime);
        let login = login.ok_or_else(|| {
            let text = "Invalid authentication via OAuth2. The CSRF cookie is missing, unreadable or too old";
            refuse(403, "no_csrf_cookie", text.into())
        })?;
        if !bool::from(login.state.as_bytes().ct_eq(state.as_bytes())) {
            let text = "Invalid authentication via OAuth2: CSRF token mismatch, potential attack";
            return Err(refuse(403, "csrf_mismatch", text.into()));
        }
        let failed = |reason: &str| format!("Error redeeming code during OAuth2 callback: {reason}");
        let code = given.get("code").filter(|code| !code.is_empty());
        let code = code.ok_or_else(|| refuse(500, "no_code", failed("missing code")))?;
        let callback_url = config.callback_url(request);
        let redeemed = self.provider.redeem(metadata, code, &login, &callback_url).await;
        let session = redeemed.map_err(|reason| {
            tracing::warn!(%reason, "A login failed");
            refuse(500, "redeem_failed", failed("the provider's answer cannot be used; the gateway's log says why"))
        })?;
        let sealed = config.sealer.seal(&config.purpose(&config.cookies.name), &session);
        let sealed = sealed.ok_or_else(|| refuse(500, "no_random", "the system gives no random numbers".into()))?;
        let Some(mut cookies) = config.cookies.write(request, &sealed) else {
            tracing::warn!("A login failed: the provider's tokens are longer than browsers keep in cookies");
            return Err(refuse(500, "session_too_long", failed("the tokens are too long for cookies")));
        };
        cookies.push(config.cookies.one(&request.state.host, &name, "", Some(0)));
        let wanted = if config.may_redirect(wanted) { wanted } else { "/" };
        Ok((wanted.to_owned(), cookies))
    }

    fn sign_out(&self, request: &Request<'_>) -> Flow {
        let config = &self.config;
        let mut wanted = match self.asked(request).filter(|url| config.is_of_issuer(url)) {
            Some(page) => page,
            None => self.wanted(request),
        };
        let sealed = config.cookies.read(request);
        let session: Option<Session> =
            sealed.and_then(|sealed| config.sealer.open(&config.purpose(&config.cookies.name), &sealed));
        // The provider's page asks nothing if it knows whom to sign out.
        if let (Some(session), true) = (session, wanted.starts_with("http")) {
            let joint = if wanted.contains('?') { '&' } else { '?' };
            wanted = format!("{wanted}{joint}id_token_hint={}", session.id_token);
        }
        Flow::respond(redirect(&wanted, config.cookies.clear(request)))
    }

    /// Where a user of the plugin's own paths wants to go.
    fn wanted(&self, request: &Request<'_>) -> String {
        self.asked(request).filter(|url| self.config.may_redirect(url)).unwrap_or_else(|| "/".to_owned())
    }

    fn asked(&self, request: &Request<'_>) -> Option<String> {
        let query = request.head.uri.query().unwrap_or_default();
        let asked = places::query_values(query, "rd").next().map(std::borrow::Cow::into_owned);
        asked.or_else(|| request.header(REDIRECT_HEADER).map(str::to_owned))
    }
}

/// A script cannot follow a redirect to a login page, nor an image or a WebSocket; a login that they began would take the place of the user's.
fn is_no_page(request: &Request<'_>) -> bool {
    let is_fetched = request.header("sec-fetch-mode").is_some_and(|mode| mode != "navigate");
    if is_fetched || request.head.headers.contains_key(UPGRADE) {
        return true;
    }
    let accepted = request.head.headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| kind.trim() == "application/json")
}

fn redirect(location: &str, cookies: Vec<HeaderValue>) -> Reply {
    let mut reply = Reply::new(302, "oidc.redirect")
        .header(LOCATION, location)
        .header(CACHE_CONTROL, "no-cache, no-store, must-revalidate, max-age=0");
    reply.headers.extend(cookies.into_iter().map(|cookie| (SET_COOKIE, cookie)));
    reply
}
