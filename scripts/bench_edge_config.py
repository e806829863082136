"""Writes the configurations of scripts/bench-edge: the same work for Weirgate, nginx, HAProxy and Envoy.

usage: bench_edge_config.py FOLDER N_ROUTES

Four scenarios, each on a port of its own per program: plain (one route), tls, routes (N_ROUTES hosts) and plugins (API key,
CORS, blocked paths, a rate limit per key, headers added to request and answer). The upstream is 127.0.0.1:19000.
"""

import json
import subprocess
import sys
from pathlib import Path

UPSTREAM = "127.0.0.1:19000"
PORTS = {"nginx": 19500, "haproxy": 19520, "envoy": 19540}
SCENARIOS = ["plain", "tls", "routes", "plugins"]


def port(program, scenario):
    return PORTS[program] + SCENARIOS.index(scenario)


def objects(folder, kind, items):
    (folder / kind).mkdir(parents=True)
    for item in items:
        (folder / kind / f"{item['metadata']['name']}.yaml").write_text(json.dumps(item))


def ingress(name, host=None, tls=False):
    path = {"path": "/", "pathType": "Prefix",
            "backend": {"resource": {"apiGroup": "networking.higress.io", "kind": "McpBridge", "name": "default"}}}
    rule = {"http": {"paths": [path]}} | ({"host": host} if host else {})
    spec = {"rules": [rule]} | ({"tls": [{"hosts": [host], "secretName": "bench"}]} if tls else {})
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "spec": spec,
            "metadata": {"name": name, "namespace": "higress-system", "annotations": {"higress.io/destination": "upstream.static:80"}}}


def plugin(name, phase, priority, config):
    return {"apiVersion": "extensions.higress.io/v1alpha1", "kind": "WasmPlugin",
            "metadata": {"name": f"{name}.internal", "namespace": "higress-system"},
            "spec": {"phase": phase, "priority": priority, "failStrategy": "FAIL_CLOSE", "defaultConfig": config}}


def weirgate(folder, n_routes, cert, key):
    bridge = {"apiVersion": "networking.higress.io/v1", "kind": "McpBridge", "metadata": {"name": "default", "namespace": "higress-system"},
              "spec": {"registries": [{"name": "upstream", "type": "static", "domain": UPSTREAM, "port": 80}]}}
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "bench", "namespace": "higress-system"},
              "stringData": {"tls.crt": cert, "tls.key": key}}
    plugins = [
        plugin("key-auth", "AUTHN", 310, {"global_auth": True, "keys": ["x-api-key"], "in_header": True,
                                          "consumers": [{"name": "bench", "credential": "bench"}]}),
        plugin("cors", "AUTHZ", 340, {"allow_origins": ["https://bench.test"], "allow_methods": ["GET", "POST"]}),
        plugin("request-block", "AUTHZ", 320, {"block_urls": ["/blocked"]}),
        plugin("key-rate-limit", "UNSPECIFIED_PHASE", 10, {"limit_by_header": "x-api-key",
                                                           "limit_keys": [{"key": "bench", "query_per_second": 1000000}]}),
        plugin("transformer", "AUTHN", 410, {
            "reqRules": [{"operate": "add", "headers": [{"key": "x-added", "value": "1"}]}],
            "respRules": [{"operate": "add", "headers": [{"key": "x-added", "value": "1"}]}]}),
    ]
    ingresses = {
        "plain": [ingress("all")],
        "tls": [ingress("all", "localhost", tls=True)],
        "routes": [ingress(f"r{n}", f"h{n}.bench") for n in range(n_routes)],
        "plugins": [ingress("all")],
    }
    for scenario, items in ingresses.items():
        target = folder / f"weirgate-{scenario}"
        objects(target, "mcpbridges", [bridge])
        objects(target, "ingresses", items)
    objects(folder / "weirgate-tls", "secrets", [secret])
    objects(folder / "weirgate-plugins", "wasmplugins", plugins)


def nginx(folder, n_routes):
    proxy = "location / { proxy_pass http://upstream; }"
    listen = lambda scenario: f"listen 127.0.0.1:{port('nginx', scenario)}"
    servers = [
        f"server {{ {listen('plain')} backlog=4096; {proxy} }}",
        f"server {{ {listen('tls')} ssl http2 backlog=4096; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; {proxy} }}",
        *[f"server {{ {listen('routes')}; server_name h{n}.bench; {proxy} }}" for n in range(n_routes)],
        f"""server {{ {listen('plugins')} backlog=4096;
          if ($consumer = "") {{ return 401; }}
          if ($request_uri ~* "/blocked") {{ return 403; }}
          limit_req zone=keys burst=100000 nodelay;
          add_header access-control-allow-origin $allowed_origin always; add_header x-added 1 always;
          location / {{ proxy_set_header x-mse-consumer $consumer; proxy_set_header x-added 1; proxy_set_header connection "";
            proxy_pass http://upstream; }} }}""",
    ]
    (folder / "nginx.conf").write_text(f"""
daemon off; worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/nginx.err error;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_timeout 600s; keepalive_requests 1000000000; client_max_body_size 8m; client_body_buffer_size 1m;
  client_body_temp_path {folder}/n1; proxy_temp_path {folder}/n2; fastcgi_temp_path {folder}/n3; uwsgi_temp_path {folder}/n4; scgi_temp_path {folder}/n5;
  proxy_http_version 1.1; proxy_set_header connection ""; proxy_buffering off;
  server_names_hash_max_size 65536; server_names_hash_bucket_size 128;
  upstream upstream {{ server {UPSTREAM}; keepalive 512; keepalive_requests 1000000000; }}
  map $http_x_api_key $consumer {{ default ""; bench bench; }}
  map $http_origin $allowed_origin {{ default ""; "https://bench.test" "https://bench.test"; }}
  limit_req_zone $http_x_api_key zone=keys:1m rate=1000000r/s;
  {chr(10).join(servers)}
}}
""")


def haproxy(folder, n_routes):
    (folder / "hosts.map").write_text("".join(f"h{n}.bench upstream\n" for n in range(n_routes)))
    (folder / "both.pem").write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    (folder / "haproxy.cfg").write_text(f"""
global
  nbthread 2
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend plain
  bind 127.0.0.1:{port('haproxy', 'plain')}
  default_backend upstream
frontend tls
  bind 127.0.0.1:{port('haproxy', 'tls')} ssl crt {folder}/both.pem alpn h2,http/1.1
  default_backend upstream
frontend routes
  bind 127.0.0.1:{port('haproxy', 'routes')}
  use_backend %[req.hdr(host),lower,map_str({folder}/hosts.map,none)]
frontend plugins
  bind 127.0.0.1:{port('haproxy', 'plugins')}
  http-request deny deny_status 401 unless {{ req.hdr(x-api-key) -m str bench }}
  http-request deny deny_status 403 if {{ path_sub -i /blocked }}
  http-request track-sc0 req.hdr(x-api-key) table keys
  http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 1000000 }}
  http-request set-header x-mse-consumer bench
  http-request set-header x-added 1
  http-request set-var(txn.origin) req.hdr(origin)
  http-response set-header access-control-allow-origin %[var(txn.origin)] if {{ var(txn.origin) -m str https://bench.test }}
  http-response set-header x-added 1
  default_backend upstream
backend keys
  stick-table type string size 1k expire 10s store http_req_rate(1s)
backend upstream
  server one {UPSTREAM}
backend none
  http-request deny deny_status 404
""")


def envoy(folder, n_routes):
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "60s"}}
    at = "@type"
    types = "type.googleapis.com/envoy.extensions"
    router = {"name": "envoy.filters.http.router", "typed_config": {at: f"{types}.filters.http.router.v3.Router"}}

    def rbac(action, permission, principal):
        return {"name": f"rbac-{action}", "typed_config": {at: f"{types}.filters.http.rbac.v3.RBAC", "rules": {
            "action": action, "policies": {"bench": {"permissions": [permission], "principals": [principal]}}}}}

    checks = [
        {"name": "envoy.filters.http.cors", "typed_config": {at: f"{types}.filters.http.cors.v3.Cors"}},
        rbac("ALLOW", {"any": True}, {"header": {"name": "x-api-key", "string_match": {"exact": "bench"}}}),
        rbac("DENY", {"url_path": {"path": {"contains": "/blocked"}}}, {"any": True}),
        {"name": "envoy.filters.http.local_ratelimit", "typed_config": {
            at: f"{types}.filters.http.local_ratelimit.v3.LocalRateLimit", "stat_prefix": "keys",
            "token_bucket": {"max_tokens": 1000000, "tokens_per_fill": 1000000, "fill_interval": "1s"},
            "filter_enabled": {"default_value": {"numerator": 100}}, "filter_enforced": {"default_value": {"numerator": 100}}}},
    ]
    added = [{"header": {"key": "x-added", "value": "1"}}]
    policy = {"envoy.filters.http.cors": {at: f"{types}.filters.http.cors.v3.CorsPolicy",
                                          "allow_origin_string_match": [{"exact": "https://bench.test"}]}}
    hosts = {
        "plain": [{"name": "all", "domains": ["*"], "routes": [route]}],
        "tls": [{"name": "all", "domains": ["*"], "routes": [route]}],
        "routes": [{"name": f"h{n}", "domains": [f"h{n}.bench"], "routes": [route]} for n in range(n_routes)],
        "plugins": [{"name": "all", "domains": ["*"], "routes": [route], "typed_per_filter_config": policy,
                     "request_headers_to_add": added, "response_headers_to_add": added}],
    }

    def listener(scenario):
        manager = {at: f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": scenario,
                   "route_config": {"virtual_hosts": hosts[scenario]}, "http_filters": (checks if scenario == "plugins" else []) + [router]}
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        if scenario == "tls":
            files = {"certificate_chain": {"filename": f"{folder}/cert.pem"}, "private_key": {"filename": f"{folder}/key.pem"}}
            chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": {
                at: f"{types}.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {"tls_certificates": [files], "alpn_protocols": ["h2", "http/1.1"]}}}
        address = {"socket_address": {"address": "127.0.0.1", "port_value": port("envoy", scenario)}}
        return {"name": scenario, "address": address, "filter_chains": [chain]}

    host, upstream_port = UPSTREAM.split(":")
    endpoint = {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(upstream_port)}}}}
    limits = {"max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192}
    cluster = {"name": "upstream", "type": "STATIC", "connect_timeout": "2s", "circuit_breakers": {"thresholds": [limits]},
               "load_assignment": {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": [endpoint]}]}}
    config = {"static_resources": {"listeners": [listener(scenario) for scenario in SCENARIOS], "clusters": [cluster]}}
    (folder / "envoy.json").write_text(json.dumps(config))


def main():
    folder, n_routes = Path(sys.argv[1]), int(sys.argv[2])
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE",
                    "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True)
    weirgate(folder, n_routes, (folder / "cert.pem").read_text(), (folder / "key.pem").read_text())
    nginx(folder, n_routes)
    haproxy(folder, n_routes)
    envoy(folder, n_routes)


main()
