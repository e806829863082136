#!/usr/bin/env python3
"""Change under load: the folder is rewritten every half second, alternately with a broken object, while clients ask without pause.

Each generation of the configuration says its number three times: in a header of the request, in a header of the answer, and by
the origin it names (even numbers origin 0, odd ones origin 1). A request that sees two of them differ has seen two
snapshots. A route `/part` comes and goes (then `/` takes its requests); what begins on it must end well though the route is gone.
Every answer is checked; one that is missing, cut, or not 200 is a failure.

    reload.py --gateway target/debug/weirgate [--seconds 60] [--out DIR]
"""
import argparse
import base64
import collections
import json
import os
import socket
import struct
import sys
import threading
import time

import messages
import payloads
import stage

EVENTS = 12
EVENT_SECONDS = 0.15
WAIT = 20


class Origin(stage.Server):
    """Says its own number and the generation of the request; streams and talks WebSocket if asked to."""

    def __init__(self, number):
        self.number = number
        super().__init__()

    def handle(self, client):
        data = b""
        while True:
            found, data = messages.requests(data)
            for request in found:
                said = f"{self.number} {(request.get('x-gen') or b'none').decode()}"
                if request.get("upgrade"):
                    return self.talk(client, request, said)
                if b"/sse" in request.start:
                    self.stream(client, said)
                else:
                    if b"/slow" in request.start:
                        time.sleep(0.7)
                    client.sendall(f"HTTP/1.1 200 OK\r\ncontent-length: {len(said)}\r\n\r\n{said}".encode())
            more = client.recv(65536)
            if not more:
                return
            data += more

    @staticmethod
    def stream(client, said):
        client.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for n in [*range(EVENTS), "[DONE]"]:
            event = f"data: {said} {n}\n\n"
            client.sendall(f"{len(event):x}\r\n{event}\r\n".encode())
            time.sleep(EVENT_SECONDS)
        client.sendall(b"0\r\n\r\n")

    @staticmethod
    def talk(client, request, said):
        """Answers each message with what the connection was opened with and the message."""
        client.sendall(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n")
        while True:
            head = read_exactly(client, 6)
            length, mask = head[1] & 0x7f, head[2:6]
            text = bytes(byte ^ mask[i % 4] for i, byte in enumerate(read_exactly(client, length)))
            body = said.encode() + b" " + text
            client.sendall(bytes([0x81, len(body)]) + body)


def read_exactly(client, n):
    data = b""
    while len(data) < n:
        more = client.recv(n - len(data))
        if not more:
            raise OSError("closed")
        data += more
    return data


class Failure(Exception):
    pass


class Load:
    """Clients that ask until they are told to stop."""

    def __init__(self, port):
        self.port, self.is_over = port, threading.Event()
        self.counts, self.failures, self.generations = collections.Counter(), [], set()
        self.lock, self.threads = threading.Lock(), []

    def start(self, client, n):
        for _ in range(n):
            thread = threading.Thread(target=self.loop, args=(client,), daemon=True)
            thread.start()
            self.threads.append(thread)

    def loop(self, client):
        while not self.is_over.is_set():
            try:
                client(self)
            except (OSError, Failure, messages.Broken, ValueError, IndexError) as error:
                with self.lock:
                    self.failures.append(f"{client.__name__}: {type(error).__name__} {error}"[:300])

    def connect(self):
        client = socket.create_connection(("127.0.0.1", self.port), WAIT)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def check(self, kind, said, answer_generation):
        """`said` is what the origin says: its number and the generation of the request."""
        number, generation = said.split(" ")[:2]
        if not (generation == answer_generation and int(generation) % 2 == int(number)):
            raise Failure(f"two snapshots: origin {number}, request {generation}, answer {answer_generation}")
        with self.lock:
            self.counts[kind] += 1
            self.generations.add(generation)


def ask(client, data, path):
    """One request on a connection; returns the answer and what was read beyond it."""
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: edge.test\r\n\r\n".encode())
    while True:
        found, rest = messages.responses(data, False)
        if found:
            return found[0], rest
        more = client.recv(65536)
        if not more:
            raise Failure(f"closed without a whole answer after {data[:80]!r}")
        data += more


def check1(load, kind, path, answer):
    if answer.status != 200:
        raise Failure(f"{path}: status {answer.status} {answer.body[:120]!r}")
    load.check(kind, answer.body.decode(), (answer.get("x-gen") or b"none").decode())


def http1(load):
    """A connection that is kept, with short and slow requests."""
    with load.connect() as client:
        rest, n = b"", 0
        while not load.is_over.is_set():
            n += 1
            path = "/slow" if n % 200 == 0 else "/part" if n % 10 == 0 else "/"
            answer, rest = ask(client, rest, path)
            check1(load, "http1", path, answer)


def http1_fresh(load):
    """A connection for each request."""
    with load.connect() as client:
        answer, _ = ask(client, b"", "/")
        check1(load, "http1_connections", "/", answer)


def http2(load):
    """One connection, one stream after the other."""
    with load.connect() as client:
        client.sendall(payloads.PREFACE + payloads.frame(4, 0, 0))
        data, stream = b"", 1
        while not load.is_over.is_set():
            client.sendall(payloads.request2(payloads.pseudo(method=b"GET", path=b"/"), stream=stream))
            status, body, is_done = None, b"", False
            while not is_done:
                for kind, flags, of, payload in stage.frames(data):
                    data = data[9 + len(payload):]
                    if kind == 4 and not flags & 1:
                        client.sendall(payloads.frame(4, 1, 0))
                    elif kind == 6 and not flags & 1:
                        client.sendall(payloads.frame(6, 1, 0, payload))
                    elif kind == 1 and of == stream:
                        status = stage.status2(payload)
                    elif kind == 0 and of == stream:
                        body += payload
                    elif kind in (3, 7):
                        raise Failure(f"frame {kind}: {payload!r}")
                    is_done |= of == stream and kind in (0, 1) and bool(flags & 1)
                if not is_done:
                    more = client.recv(65536)
                    if not more:
                        raise Failure("HTTP/2 connection closed")
                    data += more
            if status != 200:
                raise Failure(f"HTTP/2 status {status}")
            client.sendall(payloads.frame(8, 0, 0, struct.pack(">I", max(len(body), 1))))
            # The answer's header is compressed; request and origin suffice here.
            load.check("http2", body.decode(), body.decode().split(" ")[1])
            stream += 2



def streams(load):
    """Event streams that live through several generations, on a route that comes and goes."""
    with load.connect() as client:
        client.sendall(b"GET /part/sse HTTP/1.1\r\nHost: edge.test\r\n\r\n")
        data = b""
        while not (found := messages.responses(data, False)[0]):
            more = client.recv(65536)
            if not more:
                raise Failure(f"stream cut after {data[-80:]!r}")
            data += more
        answer = found[0]
        events = [event for event in answer.body.decode().split("\n\n") if event]
        said = {event.removeprefix("data: ").rsplit(" ", 1)[0] for event in events}
        if answer.status != 200 or len(events) != EVENTS + 1 or len(said) != 1 or not events[-1].endswith("[DONE]"):
            raise Failure(f"stream {answer.status} with {len(events)} events of {said}")
        load.check("streams", said.pop(), (answer.get("x-gen") or b"none").decode())


def websocket(load):
    """A connection that outlives all generations and keeps the one it began with."""
    with load.connect() as client:
        key = base64.b64encode(os.urandom(16)).decode()
        client.sendall(f"GET /ws HTTP/1.1\r\nHost: edge.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                       f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.recv(65536) or fail("no answer to the upgrade")
        if not data.startswith(b"HTTP/1.1 101"):
            raise Failure(f"upgrade refused: {data[:80]!r}")
        first = None
        while not load.is_over.is_set():
            client.sendall(bytes([0x81, 0x80 | 4]) + b"\0\0\0\0" + b"ping")
            head = read_exactly(client, 2)
            said = read_exactly(client, head[1]).decode()
            first = first or said
            if said != first or not said.endswith(" ping"):
                raise Failure(f"WebSocket said {said!r} after {first!r}")
            load.check("websocket_messages", said, said.split(" ")[1])
            time.sleep(0.01)


def fail(message):
    raise Failure(message)


class Folder:
    """Writes generations, and broken objects between them."""

    def __init__(self, path):
        self.path, self.generation = path, 0

    def registries(self, origins):
        registries = [{"name": f"origin-{origin.number}", "type": "static", "domain": f"127.0.0.1:{origin.port}", "port": 80}
                      for origin in origins]
        stage.write(self.path / "mcpbridges/default.yaml", {
            "apiVersion": "networking.higress.io/v1", "kind": "McpBridge", "metadata": {"name": "default"},
            "spec": {"registries": registries}})

    def next(self):
        self.generation += 1
        n = self.generation
        said = {f"higress.io/{side}-header-control-update": f"x-gen {n}" for side in ("request", "response")}
        for name, path in (("all", "/"), ("part", "/part")):
            file = self.path / f"ingresses/{name}.yaml"
            if name == "part" and n % 3 == 0:
                file.unlink(missing_ok=True)
            else:
                stage.write(file, stage.ingress(name, path, f"origin-{n % 2}.static", annotations=said))
        (self.path / "ingresses/broken.yaml").unlink(missing_ok=True)

    def break_it(self):
        n = self.generation
        broken = ["spec: [", "kind: Ingress\nmetadata: {name: broken}\nspec: {rules: 7}\n",
                  json.dumps(stage.ingress("broken", "not-a-path", "origin-0.static", "bad host!"))][n % 3]
        stage.write(self.path / "ingresses/broken.yaml", broken)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True, help="the weirgate binary")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between two writes")
    parser.add_argument("--name", default="reload-under-load")
    parser.add_argument("--out", help="folder for the run; default: eval/runs")
    args = parser.parse_args()
    actors = stage.Stage()
    origins = [Origin(0), Origin(1)]
    try:
        home = actors.dir / "gateway"
        (home / "data").mkdir(parents=True)
        folder = Folder(home / "config")
        folder.registries(origins)
        folder.next()
        gateway = actors.serve(args.gateway, home)
        load = Load(gateway.http)
        for client, n in ((http1, 4), (http1_fresh, 2), (http2, 2), (streams, 4), (websocket, 3)):
            load.start(client, n)
        until, n_writes = time.monotonic() + args.seconds, 0
        while time.monotonic() < until:
            time.sleep(args.interval)
            folder.break_it() if n_writes % 2 == 0 else folder.next()
            n_writes += 1
        load.is_over.set()
        for thread in load.threads:
            thread.join(WAIT)
        n_stuck = sum(thread.is_alive() for thread in load.threads)
        reloads = metrics(gateway.admin)
    finally:
        actors.close()
    report(args, load, n_writes, n_stuck, reloads)
    sys.exit(1 if load.failures or n_stuck else 0)


def metrics(port):
    """Reloads of the configuration, by result."""
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        data = b""
        while more := client.recv(65536):
            data += more
    lines = [line for line in data.decode().splitlines() if line.startswith("weirgate_config_reloads_total{")]
    return {line.split('"')[1]: int(float(line.split(" ")[-1])) for line in lines}


def report(args, load, n_writes, n_stuck, reloads):
    mixed = [failure for failure in load.failures if "two snapshots" in failure]
    summary = {"seconds": args.seconds, "writes": n_writes, "failed": len(load.failures), "mixed_snapshots": len(mixed),
               "clients_stuck": n_stuck, "generations_seen": len(load.generations),
               **{f"n_{kind}": n for kind, n in load.counts.items()}, **{f"reloads_{result}": n for result, n in reloads.items()}}
    lines = [f"{args.seconds:g} s, the folder rewritten {n_writes} times, every other time with a broken object "
             f"({', '.join(f'{n} reloads {result}' for result, n in sorted(reloads.items()))}): "
             f"**{len(load.failures)} failures, {len(mixed)} mixed snapshots**, {len(load.generations)} generations seen by requests.", "",
             "| traffic | checked |", "|---|--:|"]
    names = {"http1": "HTTP/1.1, kept connections", "http1_connections": "HTTP/1.1, a connection each", "http2": "HTTP/2",
             "streams": f"event streams of {EVENTS * EVENT_SECONDS:.1f} s, complete",
             "websocket_messages": "WebSocket messages on three connections that lasted the whole run"}
    lines += [f"| {text} | {load.counts[kind]} |" for kind, text in names.items()]
    lines += ["", "Each generation says its number in a header of the request, a header of the answer and by the origin it names; a request "
              "for which they differ has seen two snapshots. Streams and WebSocket connections keep the generation they began with, also "
              "when their route is gone.", ""]
    lines += [f"- {failure}" for failure in load.failures[:50]]
    stage.Run(args.name, args.out).write("Change under load", summary, lines)


if __name__ == "__main__":
    main()
