//! Annotations of Higress that this gateway knows by name only: the console's own bookkeeping, which is silent, and
//! features that are not built yet, which are said.

use super::{Annotations, HIGRESS, NGINX};

/// No effect on traffic in Higress either.
const INERT: &[&str] = &["enable-rewrite", "enable-header-control", "enable-proxy-next-upstream", "comment"];

/// Without effect in Higress since 2.0, which is no reason to leave a route open in silence.
const AUTH: &[&str] = &["auth-realm", "auth-secret", "auth-type"];

const UNSUPPORTED: &[&str] = &[
    "domain-blacklist-source-range",
    "domain-whitelist-source-range",
    "mcp-server",
    "mcp-server-enable-path-rewrite",
    "mcp-server-match-rule-domains",
    "mcp-server-match-rule-type",
    "mcp-server-match-rule-value",
    "mcp-server-path-rewrite-prefix",
    "mcp-server-upstream-type",
    "warmup",
];

/// Every key that has a meaning, for suggestions.
pub(super) const ALL_KEYS: &[&str] = &[
    "affinity",
    "app-root",
    "auth-tls-secret",
    "backend-protocol",
    "blacklist-source-range",
    "canary",
    "canary-by-cookie",
    "canary-by-header",
    "canary-by-header-pattern",
    "canary-by-header-value",
    "canary-weight",
    "canary-weight-total",
    "cors-allow-credentials",
    "cors-allow-headers",
    "cors-allow-methods",
    "cors-allow-origin",
    "cors-expose-headers",
    "cors-max-age",
    "custom-http-errors",
    "default-backend",
    "destination",
    "enable-cors",
    "force-ssl-redirect",
    "full-path-regex",
    "ignore-path-case",
    "load-balance",
    "match-method",
    "mcp-sse-stateful-param-name",
    "mirror-percentage",
    "mirror-target-fqdn",
    "mirror-target-fqdn-port",
    "mirror-target-service",
    "permanent-redirect",
    "permanent-redirect-code",
    "proxy-next-upstream",
    "proxy-next-upstream-timeout",
    "proxy-next-upstream-tries",
    "proxy-ssl-name",
    "proxy-ssl-secret",
    "proxy-ssl-server-name",
    "proxy-ssl-verify",
    "request-header-control-add",
    "request-header-control-remove",
    "request-header-control-update",
    "response-header-control-add",
    "response-header-control-remove",
    "response-header-control-update",
    "rewrite-path",
    "rewrite-target",
    "route-limit-burst-multiplier",
    "route-limit-rpm",
    "route-limit-rps",
    "rpc-destination-name",
    "session-cookie-expires",
    "session-cookie-max-age",
    "session-cookie-name",
    "session-cookie-path",
    "ssl-cipher",
    "ssl-passthrough",
    "ssl-redirect",
    "temporal-redirect",
    "timeout",
    "tls-max-protocol-version",
    "tls-min-protocol-version",
    "upstream-hash-by",
    "upstream-vhost",
    "use-regex",
    "whitelist-source-range",
];

pub(super) fn read(annotations: &Annotations<'_>) {
    for (key, value) in annotations.all() {
        let Some(short) = key.strip_prefix(HIGRESS).or_else(|| key.strip_prefix(NGINX)) else { continue };
        // The console parks values it was told to switch off as `disabled.<key>`.
        if INERT.contains(&short) || short.starts_with("disabled.") {
            annotations.mark_known(key.to_owned());
        } else if AUTH.contains(&short) {
            annotations.mark_known(key.to_owned());
            annotations
                .warn(key, "has no effect, as in Higress since 2.0: use the plugin basic-auth to ask for a password");
        } else if UNSUPPORTED.contains(&short) {
            annotations.mark_known(key.to_owned());
            if value.trim() != "false" {
                annotations.warn(key, "is not supported yet and has no effect");
            }
        }
    }
}
