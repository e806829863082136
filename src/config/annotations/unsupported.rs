//! Annotations of Higress that this gateway knows by name only: the console's own bookkeeping, which is silent, and
//! features that are not built yet, which are said.

use super::{Annotations, HIGRESS, NGINX};

/// No effect on traffic in Higress either.
const INERT: &[&str] = &["enable-rewrite", "enable-header-control", "enable-proxy-next-upstream", "comment"];

const UNSUPPORTED: &[&str] = &[
    "affinity",
    "app-root",
    "auth-realm",
    "auth-secret",
    "auth-tls-secret",
    "auth-type",
    "backend-protocol",
    "blacklist-source-range",
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
    "domain-blacklist-source-range",
    "domain-whitelist-source-range",
    "enable-cors",
    "force-ssl-redirect",
    "load-balance",
    "mcp-server",
    "mcp-server-enable-path-rewrite",
    "mcp-server-match-rule-domains",
    "mcp-server-match-rule-type",
    "mcp-server-match-rule-value",
    "mcp-server-path-rewrite-prefix",
    "mcp-server-upstream-type",
    "mcp-sse-stateful-param-name",
    "mirror-percentage",
    "mirror-target-fqdn",
    "mirror-target-fqdn-port",
    "mirror-target-service",
    "permanent-redirect",
    "permanent-redirect-code",
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
    "route-limit-burst-multiplier",
    "route-limit-rpm",
    "route-limit-rps",
    "session-cookie-expires",
    "session-cookie-max-age",
    "session-cookie-name",
    "session-cookie-path",
    "ssl-cipher",
    "ssl-passthrough",
    "ssl-redirect",
    "temporal-redirect",
    "tls-max-protocol-version",
    "tls-min-protocol-version",
    "upstream-hash-by",
    "warmup",
    "whitelist-source-range",
];

/// Every key that has a meaning, for suggestions.
pub(super) const ALL_KEYS: &[&str] = &[
    "destination",
    "full-path-regex",
    "ignore-path-case",
    "match-method",
    "proxy-next-upstream",
    "proxy-next-upstream-timeout",
    "proxy-next-upstream-tries",
    "rewrite-path",
    "rewrite-target",
    "rpc-destination-name",
    "timeout",
    "upstream-vhost",
    "use-regex",
    "enable-cors",
    "ssl-redirect",
    "whitelist-source-range",
];

/// Returns whether the Ingress is a canary.
pub(super) fn read(annotations: &Annotations<'_>) -> bool {
    for (key, value) in annotations.all() {
        let Some(short) = key.strip_prefix(HIGRESS).or_else(|| key.strip_prefix(NGINX)) else { continue };
        // The console parks values it was told to switch off as `disabled.<key>`.
        if INERT.contains(&short) || short.starts_with("disabled.") {
            annotations.mark_known(key.to_owned());
        } else if UNSUPPORTED.contains(&short) {
            annotations.mark_known(key.to_owned());
            if value.trim() != "false" {
                annotations.warn(key, "is not supported yet and has no effect");
            }
        }
    }
    let is_canary = annotations.flag(annotations.either("canary"));
    if is_canary {
        annotations
            .report
            .warn(&annotations.path, "make this Ingress a canary, which is not supported yet; it is ignored");
    }
    is_canary
}
