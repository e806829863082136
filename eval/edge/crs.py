#!/usr/bin/env python3
"""The regression tests of the OWASP Core Rule Set through the gateway's `waf` plugin: each request over a socket, and which rules
matched from the access log. The rules only detect, at paranoia level 4, as the tests' own README says. A second run blocks, at the
default paranoia level, and asks only whether ordinary requests pass and plain attacks do not.

    crs.py --gateway target/debug/weirgate --crs DIR [--out DIR]

DIR is an unpacked release of the rule set with its tests (Debian: `apt-get source modsecurity-crs`). Needs PyYAML.
"""
import argparse
import collections
import itertools
import json
import pathlib
import re
import shutil
import socket
import sys
import time
import urllib.parse

import yaml

import stage

SETUP = r"""
SecAction "id:900005,phase:1,nolog,pass,ctl:ruleRemoveById=910000,setvar:tx.paranoia_level=4,setvar:tx.blocking_paranoia_level=4,\
setvar:tx.crs_validate_utf8_encoding=1,setvar:tx.arg_name_length=100,setvar:tx.arg_length=400,setvar:tx.total_arg_length=64000,\
setvar:tx.max_num_args=255,setvar:tx.max_file_size=64100,setvar:tx.combined_file_sizes=65535"
"""
ID = re.compile(r'id[: ]?\\?"?(\d{6})')
SECONDS = 3
# A request that pingora refuses by itself has no line in the log; nobody is waited for longer.
LOG_SECONDS = 2

ORDINARY = ["/", "/docs/report.pdf?page=2&lang=en", "/search?q=red+shoes+size+42", "/users/17/edit?tab=profile", "/a-b_c/d.html"]
ATTACKS = ["/?id=1%27%20OR%20%271%27=%271", "/?q=%3Cscript%3Ealert(1)%3C/script%3E", "/?file=../../../../etc/passwd", "/?x=;cat%20/etc/passwd",
           "/?page=http://192.0.2.1/shell.txt%3f"]


def plugin(rules):
    return {"apiVersion": "extensions.higress.io/v1alpha1", "kind": "WasmPlugin", "metadata": {"name": "waf", "namespace": "higress-system"},
            "spec": {"url": "oci://plugins/waf:2.0.0", "phase": "AUTHZ", "priority": 330, "defaultConfig": {"useCRS": True, "secRules": rules}}}


def install(crs, data, setup):
    """The rule set as the plugin wants it. Version 3.3's exclusions for cPanel are left out: the engine takes a skip in them for one to
    the end of the phase, so that no rule after them would run."""
    shutil.copytree(crs / "rules", data / "crs" / "rules")
    for example in (data / "crs" / "rules").glob("*.conf.example"):
        example.rename(example.with_suffix(""))
    for cpanel in (data / "crs" / "rules").glob("REQUEST-903.9005-*"):
        cpanel.unlink()
    (data / "crs" / "crs-setup.conf").write_text((crs / "crs-setup.conf.example").read_text() + setup)


def request(given):
    """The bytes of a test's request, completed as the framework of the tests does it."""
    if given.get("encoded_request") or given.get("raw_request"):
        return None
    data = given.get("data", "")
    data = "\r\n".join(map(str, data)) if isinstance(data, list) else str(data)
    headers = {str(name): str(value) for name, value in (given.get("headers") or {}).items()}
    names = {name.lower() for name in headers}
    # The end of the answer is the end of the connection.
    if "connection" not in names:
        headers["Connection"] = "close"
    if not given.get("stop_magic"):
        kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
        if kind == "application/x-www-form-urlencoded" and data and urllib.parse.unquote(data) == data:
            data = urllib.parse.urlencode(urllib.parse.parse_qsl(data)) or data
        if data and "content-length" not in names:
            headers["Content-Length"] = str(len(data.encode()))
    lines = [f"{given.get('method', 'GET')} {given.get('uri', '/')} {given.get('version', 'HTTP/1.1')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n" + data).encode()


def expectations(output):
    """Rules that must match and rules that must not; two empty sets where the test asks for something else."""
    log = output.get("log") or {}
    wanted = set(map(str, log.get("expect_ids") or ())) | set(ID.findall(str(output.get("log_contains") or "")))
    unwanted = set(map(str, log.get("no_expect_ids") or ())) | set(ID.findall(str(output.get("no_log_contains") or "")))
    return wanted, unwanted


class Client:
    def __init__(self, gateway):
        self.gateway, self.seen = gateway, 0

    def send(self, data):
        """The line of the access log that the request brings; None if it brings none."""
        with socket.create_connection(("127.0.0.1", self.gateway.http), SECONDS) as client:
            client.settimeout(SECONDS)
            try:
                client.sendall(data)
                while client.recv(65536):
                    pass
            except OSError:
                pass
        deadline = time.monotonic() + LOG_SECONDS
        log = self.gateway.folder / "access.log"
        while time.monotonic() < deadline:
            with open(log, "rb") as lines:
                lines.seek(self.seen)
                line = lines.readline()
                if line.endswith(b"\n"):
                    rest = lines.read()
                    self.seen += len(line) + len(rest)
                    return json.loads(line)
            time.sleep(0.002)
        return None


def corpus(crs):
    for file in sorted((crs / "tests/regression/tests").rglob("*.yaml")):
        for test in (yaml.safe_load(file.read_text()) or {}).get("tests") or ():
            for holder in test.get("stages") or ():
                inner = holder.get("stage", holder)
                yield file.parent.name, str(test.get("test_title") or f"{file.stem}-{test.get('test_id')}"), inner["input"], inner["output"]


def detect(actors, args, origin):
    folder = actors.dir / "detect"
    install(args.crs, folder / "data", SETUP)
    gateway = start(actors, args.gateway, folder, origin, ["SecRuleEngine DetectionOnly"])
    client = Client(gateway)
    client.seen = (folder / "access.log").stat().st_size if (folder / "access.log").exists() else 0
    counts, failed = collections.defaultdict(collections.Counter), []
    for group, title, given, output in itertools.islice(corpus(args.crs), 0, None, args.every):
        wanted, unwanted = expectations(output)
        data = request(given)
        if data is None or not (wanted or unwanted):
            counts[group]["left out"] += 1
            continue
        line = client.send(data)
        if line is None or line["response_code_details"].startswith(("http1.", "request_")) or line["response_code"] == 0:
            # Never got as far as the rules: an attack is stopped all the same.
            counts[group]["refused by the gateway itself" if wanted or line is None else "passed"] += 1
            continue
        matched = set(line.get("waf_rules", ()))
        if wanted <= matched and not unwanted & matched:
            counts[group]["passed"] += 1
        else:
            counts[group]["failed"] += 1
            failed.append(f"{title}: " + ", ".join([f"{rule} did not match" for rule in sorted(wanted - matched)]
                                                   + [f"{rule} matched" for rule in sorted(unwanted & matched)]))
    return counts, failed


def block(actors, args, origin):
    folder = actors.dir / "block"
    install(args.crs, folder / "data", "")
    client = Client(start(actors, args.gateway, folder, origin, []))

    def status(path):
        agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
        line = client.send(f"GET {path} HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: {agent}\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode())
        return line and line["response_code"]

    return [path for path in ORDINARY if status(path) != 200], [path for path in ATTACKS if status(path) != 403]


def start(actors, binary, folder, origin, rules):
    stage.write(folder / "config/mcpbridges/default.yaml", {
        "apiVersion": "networking.higress.io/v1", "kind": "McpBridge", "metadata": {"name": "default"},
        "spec": {"registries": [{"name": "origin", "type": "static", "domain": f"127.0.0.1:{origin.port}", "port": 80}]}})
    stage.write(folder / "config/ingresses/all.yaml", stage.ingress("all", "/", "origin.static"))
    stage.write(folder / "config/wasmplugins/waf.yaml", plugin(rules))
    return actors.serve(binary, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True, help="the weirgate binary")
    parser.add_argument("--crs", required=True, type=pathlib.Path, help="an unpacked release of the rule set")
    parser.add_argument("--every", type=int, default=1, help="only every so-manieth test")
    parser.add_argument("--name", default="crs")
    parser.add_argument("--out", help="folder for the run; default: eval/runs")
    args = parser.parse_args()
    actors = stage.Stage()
    try:
        origin = stage.Recorder()
        counts, failed = detect(actors, args, origin)
        stopped, let_through = block(actors, args, origin)
    finally:
        actors.close()
    total = sum(counts.values(), collections.Counter())
    n_run = sum(total.values()) - total["left out"]
    version = re.search(r"OWASP ModSecurity Core Rule Set ver\.([\d.]+)|OWASP CRS ver\.([\d.]+)", (args.crs / "crs-setup.conf.example").read_text())
    version = next((found for found in version.groups() if found), "?") if version else "?"
    columns = ["passed", "failed", "refused by the gateway itself", "left out"]
    lines = [f"Rule set {version}: {total['passed']} of {n_run} tests passed, {total['refused by the gateway itself']} requests were refused before "
             f"any rule saw them, {total['failed']} failed. {total['left out']} tests are left out, because they send prepared bytes or expect "
             "a status.", "",
             f"Blocking at paranoia level 1: {len(ORDINARY) - len(stopped)} of {len(ORDINARY)} ordinary requests passed, "
             f"{len(ATTACKS) - len(let_through)} of {len(ATTACKS)} attacks were refused.", "",
             "| tests | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {group} | " + " | ".join(str(of[column]) for column in columns) + " |" for group, of in sorted(counts.items())]
    lines += ["", "## Failed", ""] + [f"- {line}" for line in failed]
    summary = {"crs_version": version, "n_run": n_run, "n_ordinary_stopped": len(stopped), "n_attacks_let_through": len(let_through),
               **{"n_" + column.replace(" ", "_"): total[column] for column in columns}}
    stage.Run(args.name, args.out).write("Core Rule Set", summary, lines)
    sys.exit(1 if stopped or let_through or not total["passed"] else 0)


if __name__ == "__main__":
    main()
