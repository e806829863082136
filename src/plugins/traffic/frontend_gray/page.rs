//! What is put into a page.

use serde_json::{Map, Value};

use super::choose::User;
use super::config::{Config, Injection, Variable};
use crate::plugins::Request;

/// Copies the gray key from the browser's local storage into its cookie and loads the page again, if the two differ.
const COPY_KEY: &str = r#"<script>
(function (key) {
  try {
    var stored = window.localStorage.getItem(key);
    var pair = document.cookie.split("; ").find(function (pair) { return pair.indexOf(key + "=") === 0; });
    var known = pair && decodeURIComponent(pair.slice(key.length + 1));
    if (stored && known && stored.indexOf("=") < 0 && stored !== known) {
      document.cookie = key + "=" + encodeURIComponent(stored) + "; path=/;";
      window.location.reload();
    }
  } catch (error) {}
})({key});
</script>
"#;

impl Config {
    /// The script that tells pages which rules took the user.
    pub fn script(&self, user: &User, request: &Request<'_>) -> Option<String> {
        let Variable { key, feature_key, value } = self.injection.variable.as_ref()?;
        let mut rules: Vec<_> =
            self.rules.iter().map(|rule| (rule.name.clone(), Value::Bool(rule.is_told(user, request)))).collect();
        rules.sort_by(|(a, _), (b, _)| a.cmp(b));
        let rules = Value::Object(Map::from_iter(rules));
        Some(format!("<script>var {key} = {{\n{feature_key}:{rules},\n {value} \n}}\n</script>"))
    }

    /// The page as the client gets it.
    pub fn page(&self, body: &str, script: Option<&str>, version: &str) -> String {
        let page = if self.html.is_empty() { body } else { &self.html };
        let Injection { head, body_first, body_last, .. } = &self.injection;
        let head: Vec<&str> = script.into_iter().chain(head.iter().map(String::as_str)).collect();
        let mut page = page
            .replace("</head>", &format!("{}\n</head>", head.join("\n")))
            .replace("<body>", &format!("<body>\n{}", body_first.join("\n")))
            .replace("</body>", &format!("{}\n</body>", body_last.join("\n")))
            .replace("{version}", version);
        if !self.local_storage_key.is_empty() {
            let script = COPY_KEY.replace("{key}", &Value::from(self.local_storage_key.as_str()).to_string());
            page = page.replace("<body>", &format!("<body>\n{script}"));
        }
        page
    }
}
