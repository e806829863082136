#!/usr/bin/env python3
"""The TLS settings of the gateway as testssl.sh sees them (Debian's package testssl.sh). Fails on anything of severity LOW or worse
that is the gateway's: the certificate is made for the run, so what is said about its issuer and age is left out.

    tls.py --gateway target/debug/weirgate [--out DIR]
"""
import argparse
import collections
import json
import shutil
import subprocess
import sys

import stage

# Of the certificate made for the run, of the name nobody can look up, of the origin's headers, and the grade that follows from them.
NOT_OURS = ("cert", "security_headers", "DNS_CAArecord", "OCSP", "HSTS", "grade", "overall", "scan", "engine", "TLS_timestamp", "ipv6")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True, help="the weirgate binary")
    parser.add_argument("--name", default="tls")
    parser.add_argument("--out", help="folder for the run; default: eval/runs")
    args = parser.parse_args()
    program = shutil.which("testssl") or shutil.which("testssl.sh") or parser.error("testssl.sh is not on PATH")
    actors = stage.Stage()
    try:
        origin = stage.Recorder()
        gateway = actors.gateway(args.gateway, f"127.0.0.1:{origin.port}", tls=True)
        file = actors.dir / "testssl.json"
        subprocess.run([program, "--quiet", "--warnings", "off", "--color", "0", "--nodns", "min", "--ip", "127.0.0.1", "--jsonfile", str(file),
                        f"edge.test:{gateway.https}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        findings = json.loads(file.read_text())
    finally:
        actors.close()
    mine = [finding for finding in findings if not finding["id"].startswith(NOT_OURS)]
    counts = collections.Counter(finding["severity"] for finding in mine)
    bad = [finding for finding in mine if finding["severity"] in ("LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL")]
    lines = [f"{len(mine)} findings of testssl.sh about the gateway: " + ", ".join(f"{n} {severity}" for severity, n in sorted(counts.items())) + ".", "",
             "Left out is what it says about the certificate, made for the run and signed by itself.", "",
             "| what | severity | finding |", "|---|---|---|"]
    lines += [f"| {finding['id']} | {finding['severity']} | {finding['finding'].replace('|', '/').strip()} |" for finding in mine]
    summary = {"findings": len(mine), "bad": len(bad), **{f"n_{severity.lower()}": n for severity, n in counts.items()}}
    stage.Run(args.name, args.out).write("TLS settings", summary, lines)
    for finding in bad:
        print(f"{finding['severity']} {finding['id']}: {finding['finding']}", file=sys.stderr)
    sys.exit(1 if bad or not mine else 0)


if __name__ == "__main__":
    main()
