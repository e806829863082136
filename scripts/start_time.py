"""Milliseconds from exec to the first 200 of /readyz, over several starts. usage: start_time.py BINARY CONFIG_DIR"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.request

binary, config = sys.argv[1:]
took = []
for _ in range(7):
    with tempfile.TemporaryDirectory() as data:
        begin = time.monotonic()
        process = subprocess.Popen(
            [binary, "serve", "--config-dir", config, "--data-dir", data, "--bind", "127.0.0.1"]
            + ["--http-port", "0", "--https-port", "0", "--admin-port", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        ports = json.loads(process.stdout.readline().removeprefix("listening "))
        with urllib.request.urlopen(f"http://{ports['admin']}/readyz") as answer:
            assert answer.status == 200
        took.append((time.monotonic() - begin) * 1000)
        process.kill()
        process.wait()
took.sort()
print(f"start to ready: median {took[len(took) // 2]:.0f} ms, slowest {took[-1]:.0f} ms of {len(took)} starts")
