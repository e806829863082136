"""The actors of the edge runs: a gateway, origins, a recorder behind them, a tap between them, raw clients, and the folder a
run writes. Needs only the standard library; ends only what it started."""
import datetime
import json
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import messages
import payloads

ROOT = pathlib.Path(__file__).resolve().parent.parent
START_SECONDS = 60


class Stage:
    """Processes and folders that end with the run."""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="edge-"))
        self.children = []

    def start(self, argv, **more):
        child = subprocess.Popen(argv, stderr=subprocess.DEVNULL, **more)
        self.children.append(child)
        return child

    def stop(self, child):
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        self.children.remove(child)

    def close(self):
        for child in list(self.children):
            self.stop(child)
        shutil.rmtree(self.dir, ignore_errors=True)

    def gateway(self, binary, upstream, settings="", plugins=(), tls=False):
        """A gateway with one route to `upstream` (host:port); returns it with its ports."""
        folder = self.dir / f"gateway-{len(list(self.dir.iterdir()))}"
        (folder / "data").mkdir(parents=True)
        write(folder / "config/mcpbridges/default.yaml", {
            "apiVersion": "networking.higress.io/v1", "kind": "McpBridge", "metadata": {"name": "default"},
            "spec": {"registries": [{"name": "origin", "type": "static", "domain": upstream, "port": 80}]}})
        write(folder / "config/ingresses/all.yaml", ingress("all", "/", "origin.static"))
        for plugin in plugins:
            write(folder / f"config/wasmplugins/{plugin['metadata']['name']}.yaml", plugin)
        if tls:
            write(folder / "config/ingresses/tls.yaml", tls_ingress())
            write(folder / "config/secrets/edge.yaml", self.certificate())
        return self.serve(binary, folder, settings)

    def certificate(self):
        key, cert = self.dir / "key.pem", self.dir / "cert.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-keyout", str(key), "-out", str(cert), "-days", "90", "-subj", "/CN=edge.test",
                        "-addext", "subjectAltName=DNS:edge.test"], check=True, capture_output=True)
        return {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
                "metadata": {"name": "edge", "namespace": "higress-system"},
                "stringData": {"tls.crt": cert.read_text(), "tls.key": key.read_text()}}

    def serve(self, binary, folder, settings=""):
        (folder / "config.toml").write_text(f'[telemetry]\naccess_log = "{folder}/access.log"\nlog_level = "error"\n{settings}')
        child = self.start([binary, "serve", "--http-port", "0", "--https-port", "0", "--admin-port", "0",
                            "--bind", "127.0.0.1", "--config", str(folder / "config.toml"),
                            "--config-dir", str(folder / "config"), "--data-dir", str(folder / "data")],
                           stdout=subprocess.PIPE)
        ports = json.loads(child.stdout.readline().decode().removeprefix("listening "))
        return Gateway(child, folder, *(int(ports[name].rsplit(":", 1)[1]) for name in ("http", "https", "admin")))


class Gateway:
    def __init__(self, child, folder, http, https, admin):
        self.child, self.folder, self.http, self.https, self.admin = child, folder, http, https, admin


def ingress(name, path, service, host=None, annotations=()):
    backend = {"resource": {"apiGroup": "networking.higress.io", "kind": "McpBridge", "name": "default"}}
    rule = {"http": {"paths": [{"path": path, "pathType": "Prefix", "backend": backend}]}}
    if host:
        rule["host"] = host
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": name, "namespace": "higress-system",
                         "annotations": {"higress.io/destination": service, **dict(annotations)}},
            "spec": {"ingressClassName": "higress", "rules": [rule]}}


def tls_ingress():
    object = ingress("tls", "/", "origin.static", "edge.test")
    object["spec"]["tls"] = [{"hosts": ["edge.test"], "secretName": "edge"}]
    return object


def write(path, object):
    """As Higress writes: a temporary file, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(object if isinstance(object, str) else json.dumps(object))
    os.replace(temporary, path)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"nothing listens on port {port}")


class Server:
    """Accepts connections on a free port, one thread each."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.socket.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.handle_quietly, args=(client,), daemon=True).start()

    def handle_quietly(self, client):
        try:
            self.handle(client)
        except OSError:
            pass
        finally:
            client.close()


class Recorder(Server):
    """An origin that takes only strict HTTP/1.1, keeps what it saw and echoes the target."""

    def __init__(self):
        self.seen = []
        super().__init__()

    def handle(self, client):
        data = b""
        while True:
            try:
                found, data = messages.requests(data)
            except messages.Broken as error:
                self.seen.append(("BROKEN", str(error), ""))
                client.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                return
            for request in found:
                self.seen.append(request.key())
                body = request.start.split(b" ")[1]
                is_head = request.start.startswith(b"HEAD ")
                client.sendall(b"HTTP/1.1 200 OK\r\nx-origin: yes\r\ncontent-length: %d\r\n\r\n" % len(body) + (b"" if is_head else body))
            more = client.recv(65536)
            if not more:
                return
            data += more


class Tap(Server):
    """Passes bytes on to an origin and keeps what came from the gateway, by connection."""

    def __init__(self, target):
        self.target, self.wires = target, []
        super().__init__()

    def handle(self, client):
        with socket.create_connection(("127.0.0.1", self.target), 5) as origin:
            origin.settimeout(None)
            wire = bytearray()
            self.wires.append(wire)
            back = threading.Thread(target=self.pump, args=(origin, client, None), daemon=True)
            back.start()
            self.pump(client, origin, wire)
            back.join(2)

    @staticmethod
    def pump(source, sink, wire):
        try:
            while data := source.recv(65536):
                if wire is not None:
                    wire += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()


class NodeOrigin:
    """Node's own HTTP server; writes what it saw as JSON lines."""

    SCRIPT = """
const server = require('http').createServer((request, response) => {
  const parts = [];
  request.on('data', part => parts.push(part));
  request.on('end', () => {
    console.log(JSON.stringify([request.method, request.url, Buffer.concat(parts).toString('latin1')]));
    response.setHeader('x-origin', 'yes');
    response.end(request.url);
  });
});
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify(server.address().port)));
"""

    def __init__(self, stage):
        self.seen = []
        child = stage.start(["node", "-e", self.SCRIPT], stdout=subprocess.PIPE)
        self.port = json.loads(child.stdout.readline())
        threading.Thread(target=self.read, args=(child.stdout,), daemon=True).start()

    def read(self, lines):
        for line in lines:
            self.seen.append(tuple(json.loads(line)))


class NginxOrigin:
    def __init__(self, stage):
        self.recorder, self.port = Recorder(), free_port()
        folder = stage.dir / "nginx"
        folder.mkdir()
        (folder / "nginx.conf").write_text(f"""
daemon off; master_process off; pid {folder}/pid; error_log /dev/null;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{self.port};
    location / {{ proxy_pass http://127.0.0.1:{self.recorder.port}; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
""")
        stage.start(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")])
        wait_for(self.port)

    @property
    def seen(self):
        return self.recorder.seen


class HaproxyOrigin:
    def __init__(self, stage):
        self.recorder, self.port = Recorder(), free_port()
        config = stage.dir / "haproxy.cfg"
        config.write_text(f"""
defaults
  mode http
  timeout connect 2s
  timeout client 10s
  timeout server 10s
frontend in
  bind 127.0.0.1:{self.port}
  default_backend out
backend out
  server recorder 127.0.0.1:{self.recorder.port}
""")
        stage.start(["haproxy", "-db", "-f", str(config)])
        wait_for(self.port)

    @property
    def seen(self):
        return self.recorder.seen


def exchange(port, data, quiet=0.12, patience=1.6, is_whole=lambda data: bool(data)):
    """Sends bytes, returns what came back and whether the other side closed. Once `is_whole`, a short silence is the end; without an
    answer for `patience` seconds, our side is closed and what comes then is taken."""
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=send_quietly, args=(client, data), daemon=True).start()
        got, ended, is_shut = b"", False, False
        deadline = time.monotonic() + patience
        while True:
            whole = is_whole(got)
            left = quiet if whole else deadline - time.monotonic()
            try:
                client.settimeout(max(left, 0.001))
                more = client.recv(65536)
                if not more:
                    return got, True
                got += more
            except TimeoutError:
                if whole or is_shut:
                    return got, ended
                is_shut = True
                client.shutdown(socket.SHUT_WR)
                deadline = time.monotonic() + 1
            except OSError:
                return got, True


def send_quietly(client, data):
    try:
        client.sendall(data)
    except OSError:
        pass


def statuses(data, is_closed):
    """Statuses of the answers in the bytes; `BROKEN` for what is no answer."""
    try:
        found, rest = messages.responses(data, is_closed)
    except (messages.Broken, ValueError, IndexError):
        return ["BROKEN"]
    # The answer to HEAD has a length and no body.
    return [message.status for message in found] + ([int(rest.split(b" ")[1])] if rest.startswith(b"HTTP/1.") else [])


DIGITS = {"00000": 0, "00001": 1, "00010": 2, "011001": 3, "011010": 4, "011011": 5, "011100": 6, "011101": 7, "011110": 8, "011111": 9}
STATIC = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}


def frames(data):
    """Type, flags, stream and payload of each whole frame."""
    while len(data) >= 9:
        length = int.from_bytes(data[:3], "big")
        if len(data) < 9 + length:
            return
        yield data[3], data[4], int.from_bytes(data[5:9], "big"), data[9:9 + length]
        data = data[9 + length:]


def status2(block):
    """The status at the beginning of a header block."""
    while block and block[0] & 0xe0 == 0x20:
        block = block[1:]
    if block[0] & 0x80:
        return STATIC.get(block[0] & 0x7f)
    length, text = block[1] & 0x7f, b""
    value = block[2:2 + length]
    if not block[1] & 0x80:
        return int(value)
    bits, digits, code = "".join(f"{byte:08b}" for byte in value), "", ""
    for bit in bits:
        code += bit
        if code in DIGITS:
            digits, code = digits + str(DIGITS[code]), ""
    return int(digits[:3])


def outcomes2(data):
    """What became of an HTTP/2 request: statuses, resets and the end of the connection."""
    found = []
    for kind, _, stream, payload in frames(data):
        if kind == 1 and stream:
            status = status2(payload)
            if status != 100:
                found.append(status)
        elif kind == 3:
            found.append(f"RST {int.from_bytes(payload, 'big')}")
        elif kind == 7 and payload[4:8] != bytes(4):
            found.append(f"GOAWAY {int.from_bytes(payload[4:8], 'big')}")
    # A reset without error after an answer only says that the rest of the request is not needed.
    return [item for item in found if not (item == "RST 0" and len(found) > 1)]


class Run:
    """The folder a run writes, with the fields all summaries have."""

    def __init__(self, name, out):
        def git(*words):
            return subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT).stdout.strip()
        model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
        model = " ".join(word for word in model.split() if word not in ("Processor", "CPU") and "Core" not in word)
        dirty = "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        self.summary = {
            "command": shlex.join(pathlib.Path(word).name if os.sep in word else word for word in sys.argv),
            "commit": git("rev-parse", "--short=12", "HEAD") + dirty,
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "machine": f"{model}, {os.cpu_count()} CPUs"}
        slug = "-".join(model.lower().split()[:2]) + f"-{os.cpu_count()}cpu"
        self.folder = pathlib.Path(out or ROOT / "runs") / f"{self.summary['date']}-{slug}-{name}"
        self.lines = []

    def write(self, title, summary, lines):
        self.summary.update(summary)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "summary.json").write_text(json.dumps(self.summary, indent=2, sort_keys=True) + "\n")
        head = [f"# {title}", "", f"{self.summary['date']} · {self.summary['machine']} · commit {self.summary['commit']}", "",
                f"`{self.summary['command']}`", ""]
        (self.folder / "report.md").write_text("\n".join(head + lines) + "\n")
        print(self.folder)


def version(argv):
    """The last word-like version a program tells about itself."""
    done = subprocess.run(argv, capture_output=True, text=True)
    return next((word.lstrip("v").removeprefix("nginx/") for word in (done.stdout + done.stderr).replace("\n", " ").split()
                 if any(c.isdigit() for c in word) and "." in word), "?")
