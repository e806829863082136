//! Nacos over its HTTP API: `<service>.<group>.<namespace>.nacos`, with `_` written as `-` after the service's name
//! (Higress `registry/nacos/**/watcher.go`). Higress' clients are told of changes (UDP in version 1, gRPC later); here the
//! services are listed at the configured interval and the instances as often as the server says its answers may be kept.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{self, StreamExt};
use ring::hmac;
use serde_json::Value;
use tokio::time::Instant;

use super::fetch::{self, Ask};
use super::{Fetch, Instance, Listed, Listing};
use crate::base::secret::Secret;
use crate::config::model::{NacosApi, Registry};

/// Services per page of a list.
const PAGE: usize = 500;

/// Questions at a time.
const N_AT_ONCE: usize = 8;

/// How long instances are good for where the server does not say, and the shortest time it can ask for.
const KEEP: Duration = Duration::from_secs(10);
const KEEP_AT_LEAST: Duration = Duration::from_secs(1);

pub(super) struct Client<'a> {
    pub registry: &'a Registry,
    pub fetch: &'a dyn Fetch,
    pub api: NacosApi,
    pub namespace_id: &'a str,
    pub namespace: &'a str,
    pub groups: &'a [String],
    pub user: Option<&'a (String, Secret)>,
    pub signer: Option<&'a (String, Secret)>,
}

/// A service by group and name.
struct Name<'a> {
    group: &'a str,
    name: String,
}

/// The paths and forms of the two APIs.
struct Paths {
    login: &'static str,
    services: &'static str,
    group: &'static str,
    instances: &'static str,
}

const V1: Paths = Paths {
    login: "/nacos/v1/auth/login",
    services: "/nacos/v1/ns/service/list",
    group: "groupName",
    instances: "/nacos/v1/ns/instance/list",
};

const V3: Paths = Paths {
    login: "/nacos/v3/auth/user/login",
    services: "/nacos/v3/admin/ns/service/list",
    group: "groupNameParam",
    instances: "/nacos/v3/client/ns/instance/list",
};

impl Client<'_> {
    /// Ends with a failure; an access token that has run out is one, and the next round begins with a login.
    pub async fn follow(
        &self,
        refresh: Duration,
        publish: &(dyn Fn(Listing) + Send + Sync),
    ) -> Result<Infallible, String> {
        let mut session = self.login().await?;
        loop {
            if session.until.is_some_and(|until| Instant::now() > until) {
                session = self.login().await?;
            }
            let listed = Instant::now();
            let names = self.services(&session).await?;
            while listed.elapsed() < refresh {
                let (listing, keep) = self.instances(&session, &names).await?;
                publish(listing);
                let rest = refresh.saturating_sub(listed.elapsed());
                tokio::time::sleep(keep.unwrap_or(KEEP).max(KEEP_AT_LEAST).min(rest)).await;
            }
        }
    }

    fn paths(&self) -> &'static Paths {
        match self.api {
            NacosApi::V1 | NacosApi::V2 => &V1,
            NacosApi::V3 => &V3,
        }
    }

    async fn login(&self) -> Result<Session, String> {
        let Some((user, password)) = self.user else { return Ok(Session::default()) };
        let form = [("username", user.as_str()), ("password", password.expose())];
        let ask = Ask::get(self.registry, self.paths().login).post_form(&form);
        let (_, answer) = fetch::json(self.fetch, ask).await?;
        let token = answer["accessToken"].as_str().ok_or("the login gave no access token")?;
        let ttl = Duration::from_secs(answer["tokenTtl"].as_u64().unwrap_or(18_000));
        Ok(Session { token: Secret::new(token), until: Some(Instant::now() + ttl * 9 / 10) })
    }

    async fn ask(&self, session: &Session, path: &str, pairs: &[(&str, &str)]) -> Result<Value, String> {
        let signature = self.signer.map(|signer| signature(signer, pairs));
        let signed = signature.iter().flatten().map(|(key, value)| (*key, value.as_str()));
        let mut pairs = [&[("namespaceId", self.namespace_id)], pairs].concat();
        pairs.extend(signed);
        if !session.token.is_empty() {
            pairs.push(("accessToken", session.token.expose()));
        }
        let (_, mut answer) =
            fetch::json(self.fetch, Ask::get(self.registry, &format!("{path}?{}", fetch::query(&pairs)))).await?;
        match self.api {
            NacosApi::V1 | NacosApi::V2 => Ok(answer),
            NacosApi::V3 if answer["code"] == 0 => Ok(answer["data"].take()),
            NacosApi::V3 => Err(format!("{path} answered code {}: {}", answer["code"], answer["message"])),
        }
    }

    async fn services(&self, session: &Session) -> Result<Vec<Name<'_>>, String> {
        let mut names = Vec::new();
        for group in self.groups {
            for page in 1.. {
                let (number, size) = (usize::to_string(&page), PAGE.to_string());
                let pairs = [(self.paths().group, group.as_str()), ("pageNo", &number), ("pageSize", &size)];
                let answer = self.ask(session, self.paths().services, &pairs).await?;
                let found = page_names(&answer, group);
                let n_found = found.len();
                // Consumers register too, to be seen.
                let wanted = found.into_iter().filter(|name| !name.is_empty() && !name.starts_with("consumers:"));
                names.extend(wanted.map(|name| Name { group, name }));
                if n_found < PAGE {
                    break;
                }
            }
        }
        Ok(names)
    }

    async fn instances(&self, session: &Session, names: &[Name<'_>]) -> Result<(Listing, Option<Duration>), String> {
        let questions: Vec<_> = names.iter().map(|name| self.instances_of(session, name)).collect();
        let answers: Vec<Result<Value, String>> = stream::iter(questions).buffered(N_AT_ONCE).collect().await;
        // One service's fault is not the others'; that of all is the registry's.
        if let Some(Err(error)) = answers.iter().find(|answer| answer.is_err())
            && answers.iter().all(Result::is_err)
        {
            return Err(error.clone());
        }
        let mut listing = Listing::new();
        let mut keep = None;
        for (name, answer) in names.iter().zip(answers) {
            let suffix = format!("{}.{}.nacos", name.group, self.namespace).replace('_', "-");
            let host = format!("{}.{suffix}", name.name);
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    let (group, service) = (name.group, name.name.as_str());
                    tracing::warn!(
                        group,
                        service,
                        error,
                        "Nacos does not list a service's instances; those before stay"
                    );
                    listing.insert(host, Listed { name: name.name.clone(), is_stale: true, ..Listed::default() });
                    continue;
                }
            };
            let said = answer["cacheMillis"].as_u64().map(Duration::from_millis);
            keep = [keep, said].into_iter().flatten().min();
            let hosts = answer.as_array().or_else(|| answer["hosts"].as_array()).map_or(&[][..], Vec::as_slice);
            // What this gateway itself would have put there.
            if hosts.first().is_some_and(|host| host["metadata"]["register-resource"] == "mcp-bridge") {
                continue;
            }
            let mut instances: Vec<Instance> = hosts.iter().filter_map(instance).collect();
            instances.sort_unstable();
            listing.insert(host, Listed { name: name.name.clone(), instances, is_stale: false });
        }
        Ok((listing, keep))
    }

    async fn instances_of(&self, session: &Session, name: &Name<'_>) -> Result<Value, String> {
        let pairs = [("serviceName", name.name.as_str()), ("groupName", name.group), ("healthyOnly", "true")];
        self.ask(session, self.paths().instances, &pairs).await
    }
}

/// How the clients of hosted Nacos sign a question: the time in milliseconds and the service it is about, if it is about one.
fn signature((access, secret): &(String, Secret), pairs: &[(&str, &str)]) -> [(&'static str, String); 3] {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let value = |key: &str| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    let data = match (value("serviceName"), value("groupName")) {
        (Some(service), Some(group)) => format!("{now}@@{group}@@{service}"),
        (Some(service), None) => format!("{now}@@{service}"),
        (None, _) => now.to_string(),
    };
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.expose().as_bytes());
    let signature = STANDARD.encode(hmac::sign(&key, data.as_bytes()));
    [("signature", signature), ("data", data), ("ak", access.clone())]
}

/// What a login gave; an empty token without one.
#[derive(Default)]
struct Session {
    token: Secret,
    until: Option<Instant>,
}

/// Names on a page of the list; version 3 takes the group for a pattern, and empty names stand for services of others that fit it, as they
/// count for the length of the page.
fn page_names(answer: &Value, group: &str) -> Vec<String> {
    let name = |item: &Value| match item {
        Value::String(name) => name.clone(),
        item if item["groupName"].as_str().is_some_and(|own| own != group) => String::new(),
        item => item["name"].as_str().unwrap_or_default().to_owned(),
    };
    let items = answer["doms"].as_array().or_else(|| answer["pageItems"].as_array());
    items.into_iter().flatten().map(name).collect()
}

fn instance(host: &Value) -> Option<Instance> {
    let is_on = |flag: &str| host[flag].as_bool().unwrap_or(true);
    if !is_on("healthy") || !is_on("enabled") || host["weight"].as_f64() == Some(0.0) {
        return None;
    }
    let port = u16::try_from(host["port"].as_u64()?).ok()?;
    Instance::new(host["ip"].as_str()?, port, host["metadata"]["protocol"].as_str().unwrap_or_default())
}
