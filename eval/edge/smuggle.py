#!/usr/bin/env python3
"""The request-smuggling corpus: every payload through the gateway to nginx, HAProxy and Node, and to each of them directly.

A payload is rejected, or both sides of the hop parse it alike: what the gateway sent on is strict HTTP/1.1 without anything
left over, the origin saw exactly these requests, the client got as many answers, nothing called /smuggled came out, and another
client's request just after it got its own answer. Anything else is a divergence, and the exit code says so.

    smuggle.py --gateway target/debug/weirgate [--only TEXT] [--out DIR]

Needs nginx, haproxy and node on PATH. Two passes per origin: bodies stream through, and bodies are read whole first because a
plugin (request-block) wants them.
"""
import argparse
import collections
import shutil
import sys
import time

import messages
import payloads
import stage

SETTINGS = "[timeouts]\nrequest_read_secs = 1\n"
HOLDS = {"apiVersion": "extensions.higress.io/v1alpha1", "kind": "WasmPlugin",
         "metadata": {"name": "request-block.internal", "namespace": "higress-system"},
         "spec": {"phase": "AUTHZ", "priority": 320, "failStrategy": "FAIL_CLOSE",
                  "defaultConfig": {"block_bodies": ["a-word-nobody-sends"]}, "matchRules": []}}
ORIGINS = {"nginx": (stage.NginxOrigin, ["nginx", "-v"]), "haproxy": (stage.HaproxyOrigin, ["haproxy", "-v"]),
           "node": (stage.NodeOrigin, ["node", "--version"])}


def is_whole1(data):
    try:
        return bool(messages.responses(data, False)[0])
    except (messages.Broken, ValueError, IndexError):
        return bool(data)


def is_whole2(data):
    return any(kind == 3 or kind == 7 or (kind == 1 and stream and flags & 1) or (kind == 0 and flags & 1)
               for kind, flags, stream, _ in stage.frames(data))


class Pass:
    """One gateway before one origin."""

    def __init__(self, actors, binary, origin, is_held):
        self.origin, self.n_victims = origin, 0
        self.tap = stage.Tap(origin.port)
        self.gateway = actors.gateway(binary, f"127.0.0.1:{self.tap.port}", SETTINGS, [HOLDS] if is_held else [])

    def run(self, payload):
        """The outcome, and what is wrong with it (empty if nothing)."""
        self.origin.seen.clear()
        for wire in self.tap.wires:
            wire.clear()
        is_h2 = payload.group == "HTTP/2"
        got, closed = stage.exchange(self.gateway.http, payload.data, is_whole=is_whole2 if is_h2 else is_whole1)
        outcomes = stage.outcomes2(got) if is_h2 else stage.statuses(got, closed)
        victim = self.victim()
        try:
            sent, rest = self.sent()
        except messages.Broken as error:
            return outcomes, f"sent on what is not strict: {error}"
        if victim:
            return outcomes, victim
        if not sent and not rest:
            answer = outcomes[0] if outcomes else None
            is_rejection = answer is not None and (isinstance(answer, str) and answer != "BROKEN"
                                                   or isinstance(answer, int) and 400 <= answer < 600 and answer != 502)
            if is_rejection and len(outcomes) == 1:
                return outcomes, ""
            return outcomes, f"neither rejected nor sent on: {outcomes}"
        return outcomes, self.compare(payload, outcomes, sent, rest)

    def victim(self):
        self.n_victims += 1
        target = f"/victim-{self.n_victims}"
        got, _ = stage.exchange(self.gateway.http, f"GET {target} HTTP/1.1\r\nHost: edge.test\r\n\r\n".encode(), 0.002,
                                is_whole=is_whole1)
        found = messages.responses(got, True)[0]
        if len(found) != 1 or found[0].body != target.encode():
            return f"another client's {target} got {[message.body for message in found]}"
        return ""

    def sent(self):
        """Requests the gateway sent on, without those of victims, and what is left of an unfinished one."""
        found, rest = [], b""
        for wire in self.tap.wires:
            more, left = messages.requests(bytes(wire))
            found += [request.key() for request in more if not request.key()[1].startswith("/victim-")]
            rest += left
        return found, rest

    def compare(self, payload, outcomes, sent, rest):
        seen = [request for request in self.origin.seen if not request[1].startswith("/victim-")]
        if rest:
            # Of a body that does not end, the origin must not have made a request.
            is_fine = not seen and not any(isinstance(item, int) and item < 400 for item in outcomes)
            return "" if is_fine else f"unfinished request sent on, origin saw {seen}, client got {outcomes}"
        if any(target == "/smuggled" for _, target, _ in sent + seen):
            return "a smuggled request came out"
        if len(sent) > payload.n:
            return f"{len(sent)} requests came out: {sent}"
        if len(outcomes) > max(len(sent), payload.n):
            return f"{len(sent)} requests, {len(outcomes)} answers: {outcomes}"
        is_refused = not seen and bool(outcomes) and isinstance(outcomes[0], int) and 400 <= outcomes[0] < 600
        if seen != sent and not is_refused:
            return f"sent {sent}, origin saw {seen}"
        return ""


def direct(origin, payload):
    """What an origin makes of the payload itself."""
    if payload.group == "HTTP/2":
        return "–"
    origin.seen.clear()
    got, closed = stage.exchange(origin.port, payload.data, is_whole=is_whole1)
    time.sleep(0.01)
    seen = len(origin.seen)
    return f"{'/'.join(map(str, stage.statuses(got, closed))) or 'closed'}" + (f" ({seen} requests)" if seen > 1 else "")


def shown(outcomes):
    return "/".join(map(str, outcomes)) or "closed"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True, help="the weirgate binary")
    parser.add_argument("--only", default="", help="payloads whose group or name contain this")
    parser.add_argument("--origins", default=",".join(ORIGINS))
    parser.add_argument("--name", default="smuggling")
    parser.add_argument("--out", help="folder for the run; default: eval/runs")
    args = parser.parse_args()
    missing = [name for name in args.origins.split(",") if not shutil.which(name)]
    if missing:
        parser.error(f"not on PATH: {missing}")
    corpus = [payload for payload in payloads.http1() + payloads.http2() if args.only in f"{payload.group}: {payload.name}"]
    table = collections.defaultdict(dict)
    divergences = []
    actors = stage.Stage()
    try:
        for name in args.origins.split(","):
            origin = ORIGINS[name][0](actors)
            for is_held in (False, True):
                way = Pass(actors, args.gateway, origin, is_held)
                for payload in corpus:
                    outcomes, wrong = way.run(payload)
                    row = table[payload.group, payload.name]
                    row[name, is_held] = (outcomes, wrong)
                    if wrong:
                        divergences.append((payload, name, is_held, wrong))
                        print(f"{payload.group}: {payload.name} [{name}{', held' if is_held else ''}]: {wrong[:300]}", file=sys.stderr)
                actors.stop(way.gateway.child)
            for payload in corpus:
                table[payload.group, payload.name][name, "direct"] = direct(origin, payload)
    finally:
        actors.close()
    report(args, corpus, table, divergences)
    sys.exit(1 if divergences else 0)


def verdict(outcomes, wrong):
    if wrong:
        return f"**DIVERGES** ({shown(outcomes)})"
    is_rejected = not outcomes or not isinstance(outcomes[0], int) or outcomes[0] >= 400
    return f"{'rejected' if is_rejected else 'alike'} {shown(outcomes)}"


def report(args, corpus, table, divergences):
    origins = args.origins.split(",")
    n_rejected = sum(verdict(*table[p.group, p.name][origins[0], False]).startswith("rejected") for p in corpus)
    versions = {f"version_{name}": stage.version(ORIGINS[name][1]) for name in origins}
    named = ", ".join(f"{name} {versions['version_' + name]}" for name in origins)
    summary = {"payloads": len(corpus), "passes": len(origins) * 2, "divergences": len(divergences),
               "payloads_rejected": n_rejected, "payloads_parsed_alike": len(corpus) - n_rejected, **versions}
    lines = [f"{len(corpus)} payloads, {len(origins)} origins ({named}), bodies streamed "
             f"and bodies held: {n_rejected} rejected, {len(corpus) - n_rejected} parsed alike on both sides, "
             f"**{len(divergences)} divergences**.", "",
             "*Rejected* means that nothing reached the origin, or the origin itself refused the strict request it was sent. *Alike* means "
             "that what Weirgate sent on is strict HTTP/1.1 without anything left over, that the origin saw exactly these requests, that "
             "the client got as many answers, and that another client's request right after it got its own answer. `RST n` and "
             "`GOAWAY n` are HTTP/2's error codes, `closed` is a connection ended without an answer. The last columns are what the "
             "origins make of the payload itself.", ""]
    for group in dict.fromkeys(payload.group for payload in corpus):
        lines += [f"## {group}", "", "| payload | Weirgate | " + " | ".join(f"{name} itself" for name in origins) + " |",
                  "|---|---|" + "---|" * len(origins)]
        for payload in (payload for payload in corpus if payload.group == group):
            row = table[payload.group, payload.name]
            verdicts = dict.fromkeys(verdict(*row[name, held]) for name in origins for held in (False, True))
            cells = [" · ".join(verdicts), *(row[name, "direct"] for name in origins)]
            lines.append(f"| {payload.name} | " + " | ".join(cells) + " |")
        lines.append("")
    stage.Run(args.name, args.out).write("Request smuggling", summary, lines)


if __name__ == "__main__":
    main()
