#!/usr/bin/env python3
"""HTTP/2 conformance: what a server MUST do by RFC 9113 and RFC 7541, case by case with raw frames, without and with TLS.

Each case says what it sends after the preface and what must come: an answer, the end of the stream (RST_STREAM; a connection
error or a 4xx will do as well), or the end of the connection (GOAWAY or just the end). Where the RFC names an error code
and the general PROTOCOL_ERROR comes, that is counted apart. The cases are our own, in the order of the RFC's sections; h2spec is a Go program this suite does without.

    h2conf.py --gateway target/debug/weirgate [--only TEXT] [--out DIR]
"""
import argparse
import collections
import socket
import ssl
import struct
import sys
import time

import payloads
import stage
from payloads import frame, literal, pseudo, request2

GET = pseudo(method=b"GET", path=b"/")
POST = pseudo(path=b"/")
ACK, PADDED, PRIORITY = 1, 8, 0x20
KINDS = ["DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION"]
CODES = ["NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
         "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM"]
ANSWER, STREAM, CONNECTION, ACKED = "an answer", "stream error", "connection error", "acknowledged"
Case = collections.namedtuple("Case", "section name data expected codes preface", defaults=((), payloads.PREFACE))


def block(headers):
    return b"".join(literal(name, value) for name, value in headers)


def setting(identifier, value):
    return struct.pack(">HI", identifier, value)


def cases():
    get, post = request2(GET), request2(POST, b"hello")
    head_only = frame(1, 4, 1, block(POST))
    yield Case("3.4", "a request after preface and SETTINGS is answered", frame(4, 0, 0) + get, ANSWER)
    yield Case("3.4", "SETTINGS before the server's own have come", frame(4, 0, 0, setting(4, 65535)) + get, ANSWER)
    yield Case("3.4", "a wrong preface ends the connection", b"", CONNECTION, (), b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")
    yield Case("3.4", "the first frame must be SETTINGS", get, CONNECTION, ("PROTOCOL_ERROR",))
    start = frame(4, 0, 0)

    def add(section, name, data, expected, *codes):
        return Case(section, name, start + data, expected, codes)

    yield add("4.1", "frames of unknown type are ignored", frame(0x42, 0, 0, b"x") + get, ANSWER)
    yield add("4.1", "undefined flags are ignored", frame(6, 0x42, 0, b"12345678"), ACKED)
    yield add("4.1", "the reserved bit of the stream is ignored", frame(6, 0, 0x80000000, b"12345678"), ACKED)
    yield add("4.2", "a DATA frame of the largest size", request2(POST, b"x" * 16384), ANSWER)
    yield add("4.2", "DATA above SETTINGS_MAX_FRAME_SIZE", head_only + frame(0, 1, 1, b"x" * 16777215), STREAM, "FRAME_SIZE_ERROR")
    yield add("4.2", "HEADERS above SETTINGS_MAX_FRAME_SIZE", frame(1, 5, 1, block(GET) + literal(b"x", b"y" * 16_777_000)[:16_777_100]), CONNECTION, "FRAME_SIZE_ERROR")
    yield add("4.3", "a header block that cannot be decoded", frame(1, 5, 1, b"\x40"), CONNECTION, "COMPRESSION_ERROR")
    yield add("4.3", "another frame inside a header block", frame(1, 1, 1, block(GET)) + frame(6, 0, 0, b"12345678"), CONNECTION, "PROTOCOL_ERROR")
    yield add("4.3", "HEADERS of another stream inside a header block", frame(1, 1, 1, block(GET)) + request2(GET, stream=3), CONNECTION, "PROTOCOL_ERROR")
    yield add("4.3", "an unknown frame inside a header block", frame(1, 1, 1, block(GET)) + frame(0x42, 0, 1, b"x"), CONNECTION, "PROTOCOL_ERROR")

    for kind, payload in ((0, b"x"), (3, struct.pack(">I", 8)), (8, struct.pack(">I", 1)), (9, b"")):
        yield add("5.1", f"{KINDS[kind]} on an idle stream", frame(kind, 0, 1, payload), CONNECTION, "PROTOCOL_ERROR")
    yield add("5.1", "PRIORITY on an idle stream", frame(2, 0, 3, b"\0\0\0\0\x10") + get, ANSWER)
    yield add("5.1", "DATA after END_STREAM", request2(POST, b"hello") + frame(0, 1, 1, b"x"), STREAM, "STREAM_CLOSED")
    yield add("5.1", "HEADERS after END_STREAM", request2(POST, b"hello") + request2(GET), STREAM, "STREAM_CLOSED")
    yield add("5.1", "CONTINUATION after END_HEADERS", get + frame(9, 4, 1, block([(b"x", b"y")])), CONNECTION, "PROTOCOL_ERROR", "STREAM_CLOSED")
    yield add("5.1", "DATA after RST_STREAM", head_only + frame(3, 0, 1, struct.pack(">I", 8)) + frame(0, 1, 1, b"x"), STREAM, "STREAM_CLOSED")
    yield add("5.1", "HEADERS after RST_STREAM", head_only + frame(3, 0, 1, struct.pack(">I", 8)) + request2(GET), STREAM, "STREAM_CLOSED", "PROTOCOL_ERROR")
    yield add("5.1.1", "a stream with an even number", request2(GET, stream=2), CONNECTION, "PROTOCOL_ERROR")
    yield add("5.1.1", "a stream number that goes back", request2(GET, stream=5) + request2(GET, stream=3), CONNECTION, "PROTOCOL_ERROR", "STREAM_CLOSED")
    yield add("5.1.1", "stream 0", frame(1, 5, 0, block(GET)), CONNECTION, "PROTOCOL_ERROR")
    yield add("5.1.2", "more streams than allowed", b"".join(frame(1, 4, n, block(POST)) for n in range(1, 2301, 2)), STREAM,
              "REFUSED_STREAM", "PROTOCOL_ERROR", "ENHANCE_YOUR_CALM")
    yield add("5.3.1", "a stream that depends on itself, HEADERS", frame(1, 5 | PRIORITY, 1, b"\0\0\0\x01\x10" + block(GET)), STREAM, "PROTOCOL_ERROR")
    yield add("5.3.1", "priority fields are taken", frame(1, 5 | PRIORITY, 1, b"\0\0\0\0\x10" + block(GET)), ANSWER)
    yield add("5.4.1", "GOAWAY precedes the end of the connection", frame(0, 0, 0, b"x"), CONNECTION, "PROTOCOL_ERROR")
    yield add("5.5", "unknown settings are ignored", frame(4, 0, 0, setting(0x99, 1)) + get, ANSWER)

    yield add("6.1", "DATA on stream 0", frame(0, 0, 0, b"x"), CONNECTION, "PROTOCOL_ERROR")
    yield add("6.1", "padded DATA", head_only + frame(0, 1 | PADDED, 1, b"\x02hello\0\0"), ANSWER)
    yield add("6.1", "padding as long as the frame, DATA", head_only + frame(0, 1 | PADDED, 1, b"\x06hello"), CONNECTION, "PROTOCOL_ERROR")
    yield add("6.2", "padded HEADERS", frame(1, 5 | PADDED, 1, b"\x02" + block(GET) + b"\0\0"), ANSWER)
    yield add("6.2", "padding as long as the frame, HEADERS", frame(1, 5 | PADDED, 1, b"\xff" + block(GET)), CONNECTION, "PROTOCOL_ERROR")
    yield add("6.2", "HEADERS without END_HEADERS, continued", frame(1, 1, 1, block(GET[:2])) + frame(9, 4, 1, block(GET[2:])), ANSWER)
    yield add("6.3", "PRIORITY on stream 0", frame(2, 0, 0, b"\0\0\0\0\x10"), CONNECTION, "PROTOCOL_ERROR")
    yield add("6.3", "PRIORITY of a wrong size", frame(2, 0, 1, b"\0\0\0\0"), STREAM, "FRAME_SIZE_ERROR")
    yield add("6.4", "RST_STREAM on stream 0", frame(3, 0, 0, bytes(4)), CONNECTION, "PROTOCOL_ERROR")
    yield add("6.4", "RST_STREAM of a wrong size", head_only + frame(3, 0, 1, bytes(3)), CONNECTION, "FRAME_SIZE_ERROR")
    yield add("6.5", "SETTINGS are acknowledged", frame(4, 0, 0, setting(3, 100)), ACKED)
    yield add("6.5", "SETTINGS ACK with a payload", frame(4, ACK, 0, bytes(6)), CONNECTION, "FRAME_SIZE_ERROR")
    yield add("6.5", "SETTINGS on a stream", frame(4, 0, 1, setting(3, 100)), CONNECTION, "PROTOCOL_ERROR")
    yield add("6.5", "SETTINGS of a wrong size", frame(4, 0, 0, bytes(3)), CONNECTION, "FRAME_SIZE_ERROR")
    yield add("6.5.2", "SETTINGS_ENABLE_PUSH of 2", frame(4, 0, 0, setting(2, 2)), CONNECTION, "PROTOCOL_ERROR")
    yield add("6.5.2", "SETTINGS_INITIAL_WINDOW_SIZE above 2^31-1", frame(4, 0, 0, setting(4, 1 << 31)), CONNECTION, "FLOW_CONTROL_ERROR")
    yield add("6.5.2", "SETTINGS_MAX_FRAME_SIZE too small", frame(4, 0, 0, setting(5, 16383)), CONNECTION, "PROTOCOL_ERROR")
    yield add("6.5.2", "SETTINGS_MAX_FRAME_SIZE too large", frame(4, 0, 0, setting(5, 1 << 24)), CONNECTION, "PROTOCOL_ERROR")
    yield add("6.6", "PUSH_PROMISE from a client", frame(5, 4, 1, bytes([0, 0, 0, 2]) + block(GET)), CONNECTION, "PROTOCOL_ERROR")
    yield add("6.7", "PING is answered", frame(6, 0, 0, b"12345678"), ACKED)
    yield add("6.7", "PING on a stream", frame(6, 0, 1, b"12345678"), CONNECTION, "PROTOCOL_ERROR")
    yield add("6.7", "PING of a wrong size", frame(6, 0, 0, b"1234567"), CONNECTION, "FRAME_SIZE_ERROR")
    yield add("6.8", "GOAWAY on a stream", frame(7, 0, 1, bytes(8)), CONNECTION, "PROTOCOL_ERROR")
    yield add("6.9", "WINDOW_UPDATE of 0 on the connection", frame(8, 0, 0, bytes(4)), CONNECTION, "PROTOCOL_ERROR")
    yield add("6.9", "WINDOW_UPDATE of 0 on a stream", head_only + frame(8, 0, 1, bytes(4)), STREAM, "PROTOCOL_ERROR")
    yield add("6.9", "WINDOW_UPDATE of a wrong size", frame(8, 0, 0, bytes(3)), CONNECTION, "FRAME_SIZE_ERROR")
    yield add("6.9.1", "a connection window above 2^31-1", frame(8, 0, 0, struct.pack(">I", (1 << 31) - 1)) * 2, CONNECTION, "FLOW_CONTROL_ERROR")
    yield add("6.9.1", "a stream window above 2^31-1", head_only + frame(8, 0, 1, struct.pack(">I", (1 << 31) - 1)) * 2, STREAM, "FLOW_CONTROL_ERROR")
    yield Case("6.9.1", "an answer waits for the window", frame(4, 0, 0, setting(4, 1)) + get, "one byte")
    yield Case("6.9.2", "a window that was closed is opened by SETTINGS", frame(4, 0, 0, setting(4, 0)) + get + frame(4, 0, 0, setting(4, 100)), ANSWER)
    yield add("6.10", "CONTINUATION on stream 0", frame(1, 1, 1, block(GET)) + frame(9, 4, 0, b""), CONNECTION, "PROTOCOL_ERROR")
    yield add("6.10", "CONTINUATION without HEADERS", post + frame(9, 4, 1, b""), CONNECTION, "PROTOCOL_ERROR")
    yield add("6.10", "endless CONTINUATION", frame(1, 1, 1, block(GET)) + frame(9, 0, 1, block([(b"x" * 20, b"y" * 100)])) * 20_000, CONNECTION)
    yield add("7", "an unknown error code in RST_STREAM", head_only + frame(3, 0, 1, b"\0\0\0\xff") + request2(GET, stream=3), ANSWER)

    for name, headers in [
        ("an upper-case name", GET + [(b"X-Y", b"a")]), ("an unknown pseudo-header", GET + [(b":x", b"a")]),
        ("a pseudo-header of answers", GET + [(b":status", b"200")]),
        ("a pseudo-header after a header", [(b"x", b"a")] + GET), ("connection", GET + [(b"connection", b"close")]),
        ("te other than trailers", GET + [(b"te", b"gzip")]), ("an empty path", pseudo(b"GET", b"")),
        ("no method", GET[1:]), ("no scheme", [pair for pair in GET if pair[0] != b":scheme"]), ("no path", GET[:-1]),
        ("method twice", GET[:1] + GET), ("path twice", GET + GET[-1:]), ("scheme twice", GET[1:2] + GET),
        ("a value with a line feed", GET + [(b"x", b"a\nb")]), ("a value with NUL", GET + [(b"x", b"a\0b")]),
        ("a name with a space", GET + [(b"x y", b"a")]),
    ]:
        yield add("8.2–8.3", name, request2(headers), STREAM, "PROTOCOL_ERROR")
    yield add("8.1", "a pseudo-header in trailers", request2(POST, b"hello", [(b":path", b"/")]), STREAM, "PROTOCOL_ERROR")
    yield add("8.1", "HEADERS without END_STREAM after the body", head_only + frame(0, 0, 1, b"x") + frame(1, 4, 1, block([(b"x", b"y")])), STREAM, "PROTOCOL_ERROR")
    yield add("8.1", "trailers", request2(POST, b"hello", [(b"x-t", b"v")]), ANSWER)
    yield add("8.1.1", "content-length other than the body", request2(POST + [(b"content-length", b"1")], b"hello"), STREAM, "PROTOCOL_ERROR")
    yield add("8.1.1", "content-length other than the body in two frames",
              frame(1, 4, 1, block(POST + [(b"content-length", b"1")])) + frame(0, 0, 1, b"he") + frame(0, 1, 1, b"llo"), STREAM, "PROTOCOL_ERROR")
    yield add("8.3.1", "several requests at once", b"".join(request2(GET, stream=n) for n in range(1, 21, 2)), ANSWER)
    yield add("8.5", "CONNECT with a path", request2(pseudo(b"CONNECT")), STREAM, "PROTOCOL_ERROR")

    for name, data in [("index 0", b"\x80"), ("an index beyond the tables", b"\xff\x80\x01"), ("a string that ends too early", b"\x00\x05ab"),
                       ("Huffman padding longer than 7 bits", b"\x00\x84\xff\xff\xff\xff\x01a"), ("EOS inside Huffman", b"\x00\x85\xff\xff\xff\xff\xff\x01a"),
                       ("a table size above the limit", b"\x3f\xe1\xff\x7f"), ("an integer without end", b"\xff" + b"\xff" * 20)]:
        yield add("HPACK", name, frame(1, 5, 1, data + block(GET)), CONNECTION, "COMPRESSION_ERROR")
    yield add("HPACK", "a table size update after a field", frame(1, 5, 1, block(GET) + b"\x20"), CONNECTION, "COMPRESSION_ERROR")


def connect(port, is_tls):
    client = socket.create_connection(("127.0.0.1", port), 5)
    if is_tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        client = context.wrap_socket(client, server_hostname="edge.test")
    return client


def talk(port, is_tls, case):
    """Frames that came back, and whether the connection was ended by the other side."""
    with connect(port, is_tls) as client:
        client.settimeout(3)
        data, is_ended = b"", False
        try:
            client.sendall(case.preface + case.data)
        except OSError:
            pass
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            try:
                client.settimeout(0.25 if data and holds(case, judge(list(stage.frames(data)), False)) else max(deadline - time.monotonic(), 0.01))
                more = client.recv(65536)
            except TimeoutError:
                break
            except OSError:
                is_ended = True
                break
            if not more:
                is_ended = True
                break
            data += more
        return list(stage.frames(data)), is_ended


def judge(found, is_ended):
    """What happened, as a set of (what, code or status)."""
    seen = set()
    size = 0
    for kind, flags, stream, payload in found:
        if kind == 1:
            seen.add((ANSWER, stage.status2(payload)))
        elif kind == 0:
            size += len(payload)
        elif kind == 3:
            seen.add((STREAM, name_of(payload[:4])))
        elif kind == 7:
            seen.add((CONNECTION, name_of(payload[4:8])))
        elif kind == 6 and flags & ACK or kind == 4 and flags & ACK:
            seen.add((ACKED, KINDS[kind]))
    if size == 1:
        seen.add(("one byte", ""))
    if is_ended:
        seen.add((CONNECTION, "ended"))
    return seen


def name_of(code):
    number = int.from_bytes(code, "big")
    return CODES[number] if number < len(CODES) else str(number)


def grade(case, seen):
    """Whether the case passes; with the general code where the RFC names a special one; or fails."""
    if holds(case, seen):
        return "passes"
    is_general = case.expected in (STREAM, CONNECTION) and any(code == "PROTOCOL_ERROR" for _, code in seen)
    return "general code" if is_general else "**fails**"


def holds(case, seen):
    codes = {code for what, code in seen if what in (STREAM, CONNECTION)}
    is_code = not case.codes or bool(codes & set(case.codes)) or codes == {"ended"}
    if case.expected == ANSWER:
        return (ANSWER, 200) in seen and not any(what in (STREAM, CONNECTION) and code not in ("NO_ERROR", "ended") for what, code in seen)
    if case.expected == ACKED:
        return (ACKED, "PING") in seen or (ACKED, "SETTINGS") in seen and "SETTINGS" in case.name
    if case.expected == "one byte":
        return ("one byte", "") in seen
    if case.expected == STREAM:
        is_status = any(what == ANSWER and isinstance(code, int) and 400 <= code < 500 for what, code in seen)
        return is_status or is_code and bool(codes)
    return is_code and any(what == CONNECTION for what, _ in seen)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True, help="the weirgate binary")
    parser.add_argument("--only", default="")
    parser.add_argument("--name", default="http2-conformance")
    parser.add_argument("--out", help="folder for the run; default: eval/runs")
    args = parser.parse_args()
    actors = stage.Stage()
    results = collections.defaultdict(dict)
    chosen = [case for case in cases() if args.only in f"{case.section} {case.name}"]
    try:
        origin = stage.Recorder()
        gateway = actors.gateway(args.gateway, f"127.0.0.1:{origin.port}", tls=True)
        for transport, port in (("h2c", gateway.http), ("TLS", gateway.https)):
            for case in chosen:
                seen = judge(*talk(port, transport == "TLS", case))
                results[case.section, case.name][transport] = (grade(case, seen), seen)
                if grade(case, seen) == "**fails**":
                    print(f"{transport} {case.section} {case.name}: expected {case.expected} {case.codes}, got {seen}", file=sys.stderr)
        is_alive = gateway.child.poll() is None
    finally:
        actors.close()
    grades = collections.Counter(passed for row in results.values() for passed, _ in row.values())
    n_failed, n_general = grades["**fails**"], grades["general code"]
    lines = [f"{len(chosen)} cases, without and with TLS: of {2 * len(chosen)} runs {grades['passes']} pass, {n_general} end the connection as they "
             f"must but with PROTOCOL_ERROR where the RFC names a more special code, **{n_failed} fail**.", "",
             "The codes, and the one failure, are those of the `h2` crate, which hyper and pingora share. A pseudo-header in trailers is "
             "dropped there: it reaches neither a plugin nor an upstream.", "",
             "| section | case | must | h2c | TLS |", "|---|---|---|---|---|"]
    for case in chosen:
        row = results[case.section, case.name]
        cells = [f"{passed}: " + ", ".join(sorted(f"{what} {code}".strip() for what, code in seen if what != ACKED or case.expected == ACKED))
                 for passed, seen in row.values()]
        lines.append(f"| {case.section} | {case.name} | {case.expected} {' or '.join(case.codes)} | " + " | ".join(cells) + " |")
    stage.Run(args.name, args.out).write("HTTP/2 conformance", {"cases": len(chosen), "runs": 2 * len(chosen), "failed": n_failed,
                                                             "passed": grades["passes"], "general_code": n_general}, lines)
    sys.exit(1 if n_failed or not is_alive else 0)


if __name__ == "__main__":
    main()
