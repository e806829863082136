//! Which version a user gets.

use sha2::{Digest, Sha256};

use super::config::{Config, Deployment, Rule, member};
use crate::plugins::{Request, parts};

/// What is known of the user who asks.
pub struct User {
    /// Value of the gray key; empty if there is none.
    pub key: String,
    /// The number the user was given; empty if none is handed out.
    pub unique: String,
}

impl User {
    pub fn of(config: &Config, request: &Request<'_>) -> User {
        let from_cookie = parts::cookie(request, &config.gray_key).filter(|value| !value.is_empty()).map(str::to_owned);
        let from_header = || parts::text(request, &config.gray_key).map(std::borrow::Cow::into_owned);
        let mut key = from_cookie.or_else(from_header).unwrap_or_default();
        if !config.gray_sub_key.is_empty() {
            // The value is JSON, percent-encoded as cookies need it; as a form field without a name it is decoded.
            let decoded = form_urlencoded::parse(key.as_bytes()).next().map(|(name, _)| name.into_owned());
            key = decoded
                .and_then(|json| member(&json, &config.gray_sub_key))
                .filter(|own| !own.is_empty())
                .unwrap_or(key);
        }
        let unique = if config.unique_tag_is_set || config.weighted().is_some() {
            let from_header = parts::text(request, &config.unique_tag).filter(|own| !own.is_empty());
            let from_cookie = || parts::cookie(request, &config.unique_tag).map(str::to_owned);
            from_header
                .map(std::borrow::Cow::into_owned)
                .or_else(from_cookie)
                .filter(|own| !own.is_empty())
                .unwrap_or_else(|| uuid::Uuid::now_v7().simple().to_string())
        } else {
            String::new()
        };
        User { key, unique }
    }
}

impl Config {
    /// The deployment of this user: by number if one has a weight, else the first whose rule takes the user.
    pub fn deployment_of(&self, user: &User, request: &Request<'_>) -> &Deployment {
        if let Some(weighted) = self.weighted() {
            return if part_of_hundred(&user.unique) < weighted.weight { weighted } else { &self.base };
        }
        let is_for = |deployment: &&Deployment| {
            self.rules.iter().find(|rule| rule.name == deployment.name).is_some_and(|rule| rule.takes(user, request))
        };
        self.gray.iter().find(is_for).unwrap_or(&self.base)
    }

    /// The version of a file: that of the path if deployments have versions by path; else the page's, told by its cookie, as
    /// long as that version exists.
    pub fn version_of_file<'a>(&'a self, deployment: &'a Deployment, path: &str, of_page: Option<&str>) -> &'a str {
        let all = || self.gray.iter().chain([&self.base]);
        if all().any(|deployment| !deployment.predicates.is_empty()) {
            let by_path = deployment.predicates.iter().find(|(prefix, _)| path.starts_with(prefix.as_str()));
            return by_path.map_or(deployment.version.as_str(), |(_, version)| version);
        }
        let known = of_page.and_then(|version| all().find(|deployment| deployment.version == version));
        &known.unwrap_or(deployment).version
    }
}

impl Rule {
    pub fn takes(&self, user: &User, request: &Request<'_>) -> bool {
        let by_key = !user.key.is_empty() && self.key_values.contains(&user.key);
        by_key || self.takes_by_tag(request)
    }

    /// What pages are told: users with a key are judged by it alone where the rule lists keys.
    pub fn is_told(&self, user: &User, request: &Request<'_>) -> bool {
        match !self.key_values.is_empty() && !user.key.is_empty() {
            true => self.key_values.contains(&user.key),
            false => self.takes_by_tag(request),
        }
    }

    fn takes_by_tag(&self, request: &Request<'_>) -> bool {
        let tag = || parts::cookie(request, &self.tag_key).unwrap_or_default();
        !self.tag_key.is_empty() && self.tag_values.iter().any(|own| own == tag())
    }
}

fn part_of_hundred(unique: &str) -> u64 {
    let hash = Sha256::digest(unique.as_bytes());
    hash.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte)) % 100
}
