//! What `frontend-gray` is configured with, and the choices that need no request.

use regex::Regex;
use serde_json::Value;

use crate::plugins::config::{FieldProblem, Fields};
use crate::plugins::registry::Scope;
use crate::plugins::values::{self, Extent};

/// One year.
const DEFAULT_MAX_AGE: u64 = 60 * 60 * 24 * 365;

pub struct Config {
    /// Cookie or header that identifies the user.
    pub gray_key: String,
    /// Member of the JSON in that value, as a dotted path.
    pub gray_sub_key: String,
    pub local_storage_key: String,
    pub max_age: u64,
    pub index_paths: Vec<Regex>,
    pub skipped_paths: Vec<Regex>,
    pub skipped_by_headers: Vec<(String, String)>,
    pub use_manifest: bool,
    pub html: String,
    pub rewrite: Rewrite,
    pub rules: Vec<Rule>,
    pub base: Deployment,
    pub gray: Vec<Deployment>,
    pub backend_tag: String,
    pub unique_tag: String,
    /// The user's number is handed out although no weight needs it.
    pub unique_tag_is_set: bool,
    pub injection: Injection,
}

/// Where the pages and files of a version are; longest prefix first, `{version}` stands for the version.
#[derive(Default)]
pub struct Rewrite {
    pub host: String,
    pub index: Vec<(String, String)>,
    pub file: Vec<(String, String)>,
}

/// Who belongs to the deployment of the same name.
pub struct Rule {
    pub name: String,
    pub key_values: Vec<String>,
    pub tag_key: String,
    pub tag_values: Vec<String>,
}

#[derive(Default)]
pub struct Deployment {
    pub name: String,
    pub version: String,
    pub backend_version: String,
    /// Of a hundred users.
    pub weight: u64,
    /// Versions by path prefix, longest first.
    pub predicates: Vec<(String, String)>,
}

/// What is put into pages.
#[derive(Default)]
pub struct Injection {
    /// A script variable with the rules that took the user.
    pub variable: Option<Variable>,
    pub head: Vec<String>,
    pub body_first: Vec<String>,
    pub body_last: Vec<String>,
}

pub struct Variable {
    pub key: String,
    pub feature_key: String,
    /// Further members, without the braces.
    pub value: String,
}

impl Config {
    pub fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let text = |fields: &mut Fields<'_>, key| fields.string(key).unwrap_or_default().to_owned();
        let local_storage_key = text(&mut fields, "localStorageGrayKey");
        let gray_key = text(&mut fields, "grayKey");
        let gray_sub_key = text(&mut fields, "graySubKey");
        let max_age = fields.count("storeMaxAge").filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_MAX_AGE);
        let index_paths = globs(&mut fields, "indexPaths", "includePathPrefixes");
        let skipped_paths = globs(&mut fields, "skippedPaths", "skippedPathPrefixes");
        let skipped_by_headers = values::text_map(&mut fields, "skippedByHeaders");
        let use_manifest = fields.boolean("useManifestAsEntry").unwrap_or(false);
        let html = text(&mut fields, "html");
        let rules = list(&mut fields, "rules", Rule::read);
        let rewrite = section(&mut fields, "rewrite", |section| Rewrite {
            host: text(section, "host"),
            index: by_length(values::text_map(section, "indexRouting")),
            file: by_length(values::text_map(section, "fileRouting")),
        });
        let base = section(&mut fields, "baseDeployment", Deployment::read);
        let gray = grays(&mut fields, &rules);
        let unique_tag = fields.string("uniqueGrayTag").filter(|tag| !tag.is_empty());
        let injection = section(&mut fields, "injection", Injection::read);
        let config = Config {
            gray_key: if local_storage_key.is_empty() { gray_key } else { local_storage_key.clone() },
            gray_sub_key,
            local_storage_key,
            max_age,
            index_paths,
            skipped_paths,
            skipped_by_headers,
            use_manifest,
            html,
            rewrite,
            rules,
            base,
            gray,
            backend_tag: fields
                .string("backendGrayTag")
                .filter(|tag| !tag.is_empty())
                .unwrap_or("x-mse-tag")
                .to_owned(),
            unique_tag_is_set: unique_tag.is_some(),
            unique_tag: unique_tag.unwrap_or("x-higress-uid").to_owned(),
            injection,
        };
        (config, fields.finish())
    }

    /// The deployment that gets part of all users, and its part of a hundred.
    pub fn weighted(&self) -> Option<&Deployment> {
        self.gray.iter().find(|deployment| deployment.weight > 0)
    }
}

/// Deployments that are on. After one with a weight the others do not count, as in Higress.
fn grays(fields: &mut Fields<'_>, rules: &[Rule]) -> Vec<Deployment> {
    let mut found: Vec<Deployment> = Vec::new();
    for (index, value) in fields.list("grayDeployments").unwrap_or_default().iter().enumerate() {
        let mut section = Fields::of(value, &format!("grayDeployments[{index}]"));
        let is_enabled = section.boolean("enabled").unwrap_or(false);
        let deployment = Deployment::read(&mut section);
        let has_rule = rules.iter().any(|rule| rule.name == deployment.name);
        if is_enabled && deployment.weight == 0 && !has_rule {
            let message = "but no rule has that name and there is no weight, so nobody gets it";
            section.warn("name", format!("is \"{}\", {message}", deployment.name));
        }
        fields.problems.extend(section.finish());
        if is_enabled && found.last().is_none_or(|last| last.weight == 0) {
            found.push(deployment);
        }
    }
    found
}

impl Deployment {
    fn read(fields: &mut Fields<'_>) -> Deployment {
        let weight = fields.count("weight").unwrap_or(0);
        if weight > 100 {
            fields.problem("weight", format!("must be at most 100, found {weight}"));
        }
        Deployment {
            name: fields.name("name").unwrap_or_default(),
            version: fields.name("version").unwrap_or_default().trim().to_owned(),
            backend_version: fields.name("backendVersion").unwrap_or_default(),
            weight,
            predicates: by_length(values::text_map(fields, "versionPredicates")),
        }
    }
}

impl Rule {
    fn read(fields: &mut Fields<'_>) -> Rule {
        Rule {
            name: fields.name("name").unwrap_or_default(),
            key_values: values::texts(fields, "grayKeyValue"),
            tag_key: fields.name("grayTagKey").unwrap_or_default(),
            tag_values: values::texts(fields, "grayTagValue"),
        }
    }
}

impl Injection {
    fn read(fields: &mut Fields<'_>) -> Injection {
        let variable = section(fields, "globalConfig", |section| {
            let name = |section: &mut Fields<'_>, key, default: &str| {
                let name = section.string(key).unwrap_or(default).to_owned();
                if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                    section.problem(key, format!("must be letters, digits and underscores, found \"{name}\""));
                }
                name
            };
            let key = name(section, "key", "HIGRESS_CONSOLE_CONFIG");
            let feature_key = name(section, "featureKey", "FEATURE_STATUS");
            let value = section.name("value").unwrap_or_default();
            let value = value.trim();
            let value = value.strip_prefix('{').unwrap_or(value);
            let value = value.strip_suffix('}').unwrap_or(value).to_owned();
            section.boolean("enabled").unwrap_or(false).then_some(Variable { key, feature_key, value })
        });
        let head = values::texts(fields, "head");
        let (body_first, body_last) =
            section(fields, "body", |section| (values::texts(section, "first"), values::texts(section, "last")));
        Injection { variable, head, body_first, body_last }
    }
}

/// Reads a member that is an object; the default if it is absent.
fn section<T: Default>(fields: &mut Fields<'_>, key: &'static str, read: impl FnOnce(&mut Fields<'_>) -> T) -> T {
    let Some(value) = fields.object(key) else { return T::default() };
    let mut section = Fields::of(value, &fields.at(key));
    let result = read(&mut section);
    fields.problems.extend(section.finish());
    result
}

fn list<T>(fields: &mut Fields<'_>, key: &'static str, read: impl Fn(&mut Fields<'_>) -> T) -> Vec<T> {
    let mut found = Vec::new();
    for (index, value) in fields.list(key).unwrap_or_default().iter().enumerate() {
        let mut section = Fields::of(value, &format!("{key}[{index}]"));
        found.push(read(&mut section));
        fields.problems.extend(section.finish());
    }
    found
}

/// Longest prefix first, equal ones in alphabetical order.
fn by_length(mut map: Vec<(String, String)>) -> Vec<(String, String)> {
    map.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    map
}

/// Paths with wildcards; the older field has plain prefixes and goes first.
fn globs(fields: &mut Fields<'_>, key: &'static str, prefixes: &'static str) -> Vec<Regex> {
    let written = fields.strings(key).unwrap_or_default();
    let older: Vec<String> = fields
        .strings(prefixes)
        .unwrap_or_default()
        .iter()
        .map(|prefix| format!("{}/**", prefix.trim_end_matches('/')))
        .collect();
    let (field, written) = if older.is_empty() { (key, written) } else { (prefixes, older) };
    let mut found = Vec::with_capacity(written.len());
    for (index, glob) in written.iter().enumerate() {
        match values::pattern(&glob_pattern(glob), Extent::Whole, false) {
            Ok(regex) => found.push(regex),
            Err(_) => fields.problem(&format!("{field}[{index}]"), format!("is no path pattern: \"{glob}\"")),
        }
    }
    found
}

/// `*` and `?` stay within a segment, `**` does not, `{a,b}` is a choice, `[ab]` a set.
fn glob_pattern(glob: &str) -> String {
    let mut pattern = String::new();
    let (mut rest, mut depth) = (glob, 0_u32);
    while let Some(next) = rest.chars().next() {
        let (length, piece) = match next {
            '/' if rest == "/**" => (3, "(?:/.*)?".to_owned()),
            '/' if rest.starts_with("/**/") => (4, "/(?:.*/)?".to_owned()),
            '*' if rest.starts_with("**") => (2, ".*".to_owned()),
            '*' => (1, "[^/]*".to_owned()),
            '?' => (1, "[^/]".to_owned()),
            '{' => (1, "(?:".to_owned()),
            '}' => (1, ")".to_owned()),
            ',' if depth > 0 => (1, "|".to_owned()),
            '[' => (1, "[".to_owned()),
            ']' => (1, "]".to_owned()),
            other => (other.len_utf8(), regex::escape(&other.to_string())),
        };
        match next {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        pattern.push_str(&piece);
        rest = rest.get(length..).unwrap_or_default();
    }
    pattern
}

/// The value of a dotted path in JSON text, as text.
pub fn member(json: &str, path: &str) -> Option<String> {
    let parsed: Value = serde_json::from_str(json).ok()?;
    let found = path.split('.').try_fold(&parsed, |value, key| value.get(key))?;
    Some(found.as_str().map_or_else(|| found.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_patterns_are_those_of_doublestar() {
        for (glob, path, expected) in [
            ("/app/**", "/app/a/b", true),
            ("/app/**", "/app", true),
            ("/app/**", "/apps", false),
            ("/app/*", "/app/a", true),
            ("/app/*", "/app/a/b", false),
            ("/**/x.js", "/x.js", true),
            ("/**/x.js", "/a/b/x.js", true),
            ("/a.{js,css}", "/a.css", true),
            ("/a.{js,css}", "/aXjs", false),
            ("/v[12]?", "/v2x", true),
            ("/a,b", "/a,b", true),
            ("/a,b", "/a", false),
        ] {
            assert_eq!(
                values::pattern(&glob_pattern(glob), Extent::Whole, false).unwrap().is_match(path),
                expected,
                "{glob} {path}"
            );
        }
    }

    #[test]
    fn members_of_json_are_texts() {
        assert_eq!(member(r#"{"a": {"b": 7}, "c": "d"}"#, "a.b").as_deref(), Some("7"));
        assert_eq!(member(r#"{"c": "d"}"#, "c").as_deref(), Some("d"));
        assert_eq!(member("x", "c"), None);
    }
}
