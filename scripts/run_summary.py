"""The folder of a run that a script measures: `<out>/<date>-<machine>-<name>/summary.json`, numbers beside commit, command, machine and date."""

import datetime
import json
import os
import pathlib
import platform
import re
import subprocess


def write(out, name, command, numbers):
    """Writes the summary and prints its folder and the numbers."""
    machine, date = machine_name(), datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    summary = numbers | {"commit": commit(), "command": command, "machine": machine, "date": date}
    folder = pathlib.Path(out) / f"{date}-{machine}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    (folder / "summary.json").write_text(text + "\n")
    print(folder, text, sep="\n")


def machine_name():
    """For example `amd-epyc-2cpu`."""
    cpu = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    model = re.sub(r"\((r|tm)\)", "", (cpu.group(1) if cpu else platform.machine()).lower())
    return re.sub(r"[^a-z0-9]+", "-", " ".join(model.split()[:2])) + f"-{os.cpu_count()}cpu"


def commit():
    """As `weirgate-eval` writes it: with `-dirty` where tracked files differ from the commit, `unknown` outside a repository."""
    head = git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    return head + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")


def git(*words):
    here = pathlib.Path(__file__).resolve().parent
    return subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=here).stdout.strip()
