//! `simple-jwt-auth`: one shared secret, one header with the token. AUTHN phase, priority 200.
//!
//! Difference from Higress: a configuration without secret or header is a problem when it is read; the original then refuses
//! every request.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::clock;
use super::consumers::{self, told};
use super::jwt::{Jwks, Jwt};
use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{CredentialPlace, Flow, Host, Plugin, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "simple-jwt-auth",
    phase: Phase::Authn,
    priority: 200,
    family: Family::Go,
    summary: "JSON Web Tokens in one header, signed with one shared secret",
    build,
    check: |scope| read(scope).1,
};

fn read(scope: &Scope<'_>) -> (Option<SimpleJwtAuth>, Vec<FieldProblem>) {
    let value = scope.alone();
    let mut fields = Fields::of(&value, "");
    let header = consumers::required(&mut fields, "token_headers");
    let n_problems = fields.problems.len();
    let secret = fields.secret("token_secret_key").filter(|secret| !secret.is_empty());
    if secret.is_none() && fields.problems.len() == n_problems {
        fields.problem("token_secret_key", "must be given");
    }
    let plugin = header
        .zip(secret)
        .map(|(header, secret)| SimpleJwtAuth { header, keys: Jwks::of_secret(secret.expose().as_bytes()) });
    (plugin, fields.finish())
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    match read(scope) {
        (plugin, problems) if is_usable(&problems) => Ok(plugin.map(|plugin| Arc::new(plugin) as Arc<dyn Plugin>)),
        (_, problems) => Err(problems),
    }
}

struct SimpleJwtAuth {
    header: String,
    keys: Jwks,
}

#[async_trait]
impl Plugin for SimpleJwtAuth {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let token = request.header(&self.header).unwrap_or_default();
        if self.is_valid(token, clock::now()) {
            request.state.credentials.push(CredentialPlace::Header(self.header.clone()));
            return Flow::Continue;
        }
        let body = json!({"code": 401, "msg": "认证失败"});
        Flow::respond(told(401, "simple-jwt-auth.auth_failed", body.to_string()))
    }
}

impl SimpleJwtAuth {
    fn is_valid(&self, token: &str, now: i64) -> bool {
        let Ok(jwt) = Jwt::parse(token) else { return false };
        let is_from_the_future = jwt.time("iat").is_some_and(|made| made > now);
        !is_from_the_future && jwt.check_time(now, 0).is_ok() && self.keys.verify(&jwt).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::jwt::sign;
    use super::*;
    use crate::plugins::testing::{Exchange, built, problem_fields};

    #[test]
    fn tokens_of_the_secret_pass_in_their_time() {
        let plugin = built(&SPEC, &json!({"token_headers": "token", "token_secret_key": "s3cret"}));
        let later = clock::now() + 600;
        for (claims, secret, is_right) in [
            (json!({}), "s3cret", true),
            (json!({"exp": later}), "s3cret", true),
            (json!({"exp": later}), "other", false),
            (json!({"exp": 1}), "s3cret", false),
            (json!({"nbf": later}), "s3cret", false),
            (json!({"iat": later}), "s3cret", false),
        ] {
            let token = sign("JWT", &claims, secret.as_bytes());
            let reply = Exchange::new("GET", "/", &[("token", &token)]).run(&plugin);
            assert_eq!(reply.is_none(), is_right, "{claims}");
        }
        let reply = Exchange::new("GET", "/", &[]).run(&plugin).unwrap();
        assert_eq!((reply.status, reply.details.as_str()), (401, "simple-jwt-auth.auth_failed"));
        assert_eq!(reply.body, "{\"code\":401,\"msg\":\"认证失败\"}");
    }

    #[test]
    fn problems_name_their_field() {
        assert_eq!(problem_fields(&SPEC, &json!({"x": 1})), ["token_headers", "token_secret_key", "x"]);
    }
}
