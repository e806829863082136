"""The corpus: requests that have been, or could be, read in two ways. `SMUGGLED` is what an attacker would want to come out
as a request of its own; `more` says how many requests a payload honestly holds."""
import dataclasses
import struct

HOST = b"edge.test"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: edge.test\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclasses.dataclass
class Payload:
    group: str
    name: str
    data: bytes
    n: int = 1


def head(headers=b"", line=b"POST /p HTTP/1.1", host=b"Host: edge.test\r\n"):
    return line + b"\r\n" + host + headers + b"\r\n"


def http1():
    def add(group, name, data, n=1):
        found.append(Payload(group, name, data, n))

    found = []
    chunked = b"0\r\n\r\n" + SMUGGLED
    by_length = b"Content-Length: %d\r\n" % len(chunked)
    coding = b"Transfer-Encoding: chunked\r\n"

    add("CL and TE", "length first", head(by_length + coding) + chunked)
    add("CL and TE", "coding first", head(coding + by_length) + chunked)
    add("CL and TE", "short length", head(b"Content-Length: 4\r\n" + coding) + b"29\r\n" + SMUGGLED[:41] + b"\r\n0\r\n\r\n")
    add("CL and TE", "length 0", head(b"Content-Length: 0\r\n" + coding) + b"5\r\nhello\r\n0\r\n\r\n")
    add("CL and TE", "HTTP/1.0", head(by_length + coding, b"POST /p HTTP/1.0") + chunked)

    for name, line in [
        ("value xchunked", b"Transfer-Encoding: xchunked\r\n"),
        ("space before colon", b"Transfer-Encoding : chunked\r\n"),
        ("tab before colon", b"Transfer-Encoding\t: chunked\r\n"),
        ("tab before value", b"Transfer-Encoding:\tchunked\r\n"),
        ("vertical tab", b"Transfer-Encoding:\x0bchunked\r\n"),
        ("form feed", b"Transfer-Encoding: \x0cchunked\r\n"),
        ("NUL before value", b"Transfer-Encoding:\x00chunked\r\n"),
        ("NUL after value", b"Transfer-Encoding: chunked\x00\r\n"),
        ("no-break space", b"Transfer-Encoding:\xa0chunked\r\n"),
        ("twice, second unknown", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n"),
        ("twice, first unknown", b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n"),
        ("twice the same", coding * 2),
        ("list with identity last", b"Transfer-Encoding: chunked, identity\r\n"),
        ("list with identity first", b"Transfer-Encoding: identity, chunked\r\n"),
        ("list chunked twice", b"Transfer-Encoding: chunked, chunked\r\n"),
        ("list with gzip", b"Transfer-Encoding: gzip, chunked\r\n"),
        ("identity", b"Transfer-Encoding: identity\r\n"),
        ("empty", b"Transfer-Encoding:\r\n"),
        ("quoted", b'Transfer-Encoding: "chunked"\r\n'),
        ("parameter", b"Transfer-Encoding: chunked;a=b\r\n"),
        ("comma before", b"Transfer-Encoding: ,chunked\r\n"),
        ("folded value", b"Transfer-Encoding:\r\n chunked\r\n"),
        ("folded colon", b"Transfer-Encoding\r\n: chunked\r\n"),
        ("folded behind another", b"X: y\r\n Transfer-Encoding: chunked\r\n"),
        ("behind a bare LF", b"X: y\nTransfer-Encoding: chunked\r\n"),
        ("behind a bare CR", b"X: y\rTransfer-Encoding: chunked\r\n"),
        ("underscore", b"Transfer_Encoding: chunked\r\n"),
        ("upper case", b"TRANSFER-ENCODING: CHUNKED\r\n"),
        ("long s", "Tran\u017ffer-Encoding: chunked\r\n".encode()),
    ]:
        add("TE spelling, with CL", name, head(by_length + line) + chunked)
        add("TE spelling, alone", name, head(line) + b"5\r\nhello\r\n0\r\n\r\n")

    for name, lines in [
        ("twice the same", b"Content-Length: 5\r\nContent-Length: 5\r\n"),
        ("twice, longer second", b"Content-Length: 5\r\nContent-Length: %d\r\n" % (5 + len(SMUGGLED))),
        ("twice, shorter second", b"Content-Length: %d\r\nContent-Length: 5\r\n" % (5 + len(SMUGGLED))),
        ("list of the same", b"Content-Length: 5, 5\r\n"),
        ("list of others", b"Content-Length: 5, 6\r\n"),
        ("plus", b"Content-Length: +5\r\n"),
        ("minus", b"Content-Length: -5\r\n"),
        ("minus zero", b"Content-Length: -0\r\n"),
        ("hexadecimal", b"Content-Length: 0x5\r\n"),
        ("two numbers", b"Content-Length: 5 0\r\n"),
        ("trailing space", b"Content-Length: 5 \r\n"),
        ("tab", b"Content-Length:\t5\r\n"),
        ("leading zeros", b"Content-Length: 0005\r\n"),
        ("fraction", b"Content-Length: 5.0\r\n"),
        ("exponent", b"Content-Length: 5e0\r\n"),
        ("empty", b"Content-Length:\r\n"),
        ("letter", b"Content-Length: 5a\r\n"),
        ("quoted", b'Content-Length: "5"\r\n'),
        ("underscore between digits", b"Content-Length: 0_5\r\n"),
        ("2^63", b"Content-Length: 9223372036854775808\r\n"),
        ("2^64 + 5", b"Content-Length: 18446744073709551621\r\n"),
        ("space before colon", b"Content-Length : 5\r\n"),
        ("NUL in name", b"Content-Length\x00: 5\r\n"),
        ("folded", b"Content-Length:\r\n 5\r\n"),
        ("underscore", b"Content_Length: 5\r\n"),
        ("bare LF before", b"X: y\nContent-Length: 5\r\n"),
    ]:
        add("CL", name, head(lines) + b"hello" + SMUGGLED)

    for name, body in [
        ("extension", b"5;a=b\r\nhello\r\n0\r\n\r\n"),
        ("quoted extension", b'5;a="b;c"\r\nhello\r\n0\r\n\r\n'),
        ("extension without name", b"5;\r\nhello\r\n0\r\n\r\n"),
        ("extension ends with bare LF", b"5;a\nhello\r\n0\r\n\r\n"),
        ("extension with bare CR", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("extension hides a chunk", b"0;\n5\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
        ("long extension", b"5;" + b"a" * 20000 + b"\r\nhello\r\n0\r\n\r\n"),
        ("size 0x5", b"0x5\r\nhello\r\n0\r\n\r\n"),
        ("size +5", b"+5\r\nhello\r\n0\r\n\r\n"),
        ("size -5", b"-5\r\nhello\r\n0\r\n\r\n"),
        ("space before size", b" 5\r\nhello\r\n0\r\n\r\n"),
        ("space after size", b"5 \r\nhello\r\n0\r\n\r\n"),
        ("tab after size", b"5\t\r\nhello\r\n0\r\n\r\n"),
        ("size g", b"g\r\nhello\r\n0\r\n\r\n"),
        ("empty size", b"\r\nhello\r\n0\r\n\r\n"),
        ("size underscore", b"0_5\r\nhello\r\n0\r\n\r\n"),
        ("size 2^64 + 5", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("size 2^64 - 1", b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("size of 2^63", b"8000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("leading zeros", b"0" * 30 + b"5\r\nhello\r\n0\r\n\r\n"),
        ("NUL after size", b"5\x00\r\nhello\r\n0\r\n\r\n"),
        ("line ends LF", b"5\nhello\n0\n\n" + SMUGGLED),
        ("size ends LF", b"5\nhello\r\n0\r\n\r\n"),
        ("data ends LF", b"5\r\nhello\n0\r\n\r\n"),
        ("data ends CR", b"5\r\nhello\r0\r\n\r\n"),
        ("last chunk ends LF", b"5\r\nhello\r\n0\n\r\n" + SMUGGLED),
        ("end ends LF", b"5\r\nhello\r\n0\r\n\n" + SMUGGLED),
        ("data without end", b"5\r\nhello0\r\n\r\n"),
        ("data too long", b"5\r\nhelloX\r\n0\r\n\r\n"),
        ("two bytes for the end", b"5\r\nhelloXX0\r\n\r\n" + SMUGGLED),
        ("zero zeros", b"5\r\nhello\r\n000\r\n\r\n"),
        ("no last empty line", b"5\r\nhello\r\n0\r\n" + SMUGGLED),
        ("trailer", b"5\r\nhello\r\n0\r\nX-T: v\r\n\r\n"),
        ("trailer Content-Length", b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n"),
        ("trailer Transfer-Encoding", b"5\r\nhello\r\n0\r\nTransfer-Encoding: x\r\n\r\n"),
        ("trailer Host", b"5\r\nhello\r\n0\r\nHost: other\r\n\r\n"),
        ("trailer with bare LF", b"5\r\nhello\r\n0\r\nX: y\n\r\n" + SMUGGLED),
        ("trailer without colon", b"5\r\nhello\r\n0\r\nnonsense\r\n\r\n"),
        ("long trailers", b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 40000 + b"\r\n"),
    ]:
        add("chunks", name, head(coding) + body)

    plain = b"GET /p HTTP/1.1"
    for name, data in [
        ("all lines end LF", b"GET /p HTTP/1.1\nHost: edge.test\n\n"),
        ("request line ends LF", b"GET /p HTTP/1.1\nHost: edge.test\r\n\r\n"),
        ("head ends LF LF", b"GET /p HTTP/1.1\r\nHost: edge.test\n\nGET /smuggled HTTP/1.1\r\nHost: edge.test\r\n\r\n"),
        ("empty line is LF", b"GET /p HTTP/1.1\r\nHost: edge.test\r\n\n" + SMUGGLED),
        ("bare CR in a value", head(b"X: a\rb\r\n", plain)),
        ("CR CR LF", b"GET /p HTTP/1.1\r\r\nHost: edge.test\r\r\n\r\r\n"),
        ("folded header", head(b"X: a\r\n b\r\n", plain)),
        ("folded header with tab", head(b"X: a\r\n\tb\r\n", plain)),
        ("first header begins with a space", b"GET /p HTTP/1.1\r\n Host: edge.test\r\nHost: edge.test\r\n\r\n"),
        ("an empty line before", b"\r\n" + head(line=plain)),
        ("ten empty lines before", b"\r\n" * 10 + head(line=plain)),
        ("an LF before", b"\n" + head(line=plain)),
        ("space before the method", b" " + head(line=plain)),
        ("NUL in a name", head(b"X\x00Y: a\r\n", plain)),
        ("NUL in a value", head(b"X: a\x00b\r\n", plain)),
        ("NUL in the target", head(line=b"GET /p\x00q HTTP/1.1")),
        ("DEL in a value", head(b"X: a\x7fb\r\n", plain)),
        ("space before colon", head(b"X : a\r\n", plain)),
        ("space in a name", head(b"X Y: a\r\n", plain)),
        ("no colon", head(b"nonsense\r\n", plain)),
        ("empty name", head(b": a\r\n", plain)),
        ("name in brackets", head(b"X(a): a\r\n", plain)),
        ("non-ASCII in a name", head("X\u00e9: a\r\n".encode(), plain)),
        ("non-ASCII in a value", head("X: \u00e9\r\n".encode(), plain)),
        ("tab in the request line", head(line=b"GET\t/p\tHTTP/1.1")),
        ("two spaces", head(line=b"GET  /p  HTTP/1.1")),
        ("space in the target", head(line=b"GET /p q HTTP/1.1")),
        ("trailing space", head(line=b"GET /p HTTP/1.1 ")),
        ("no version", b"GET /p\r\n\r\n"),
        ("version in lower case", head(line=b"GET /p http/1.1")),
        ("HTTP/1.2", head(line=b"GET /p HTTP/1.2")),
        ("HTTP/2.0", head(line=b"GET /p HTTP/2.0")),
        ("HTTP/1.01", head(line=b"GET /p HTTP/1.01")),
        ("method in lower case", head(line=b"get /p HTTP/1.1")),
        ("method with brackets", head(line=b"G(T /p HTTP/1.1")),
        ("control in the target", head(line=b"GET /p\x01 HTTP/1.1")),
        ("fragment in the target", head(line=b"GET /p#f HTTP/1.1")),
        ("non-ASCII in the target", head(line="GET /\u00e9 HTTP/1.1".encode())),
        ("percent-encoded line break in the target", head(line=b"GET /p%0d%0aX:%20y HTTP/1.1")),
        ("header of 100 KB", head(b"X: " + b"a" * 100_000 + b"\r\n", plain)),
        ("target of 100 KB", head(line=b"GET /" + b"a" * 100_000 + b" HTTP/1.1")),
        ("5000 headers", head(b"X: a\r\n" * 5000, plain)),
    ]:
        add("lines", name, data)

    for name, data in [
        ("none", head(line=plain, host=b"")),
        ("none, HTTP/1.0", head(line=b"GET /p HTTP/1.0", host=b"")),
        ("empty", head(line=plain, host=b"Host:\r\n")),
        ("twice the same", head(b"Host: edge.test\r\n", plain)),
        ("twice", head(b"Host: other.test\r\n", plain)),
        ("list", head(line=plain, host=b"Host: edge.test, other.test\r\n")),
        ("with path", head(line=plain, host=b"Host: edge.test/x\r\n")),
        ("with user", head(line=plain, host=b"Host: a@edge.test\r\n")),
        ("with a bad port", head(line=plain, host=b"Host: edge.test:abc\r\n")),
        ("with space", head(line=plain, host=b"Host: edge.test x\r\n")),
        ("folded", head(line=plain, host=b"Host: edge.test\r\n other.test\r\n")),
        ("absolute form, same", head(line=b"GET http://edge.test/p HTTP/1.1")),
        ("absolute form, other", head(line=b"GET http://other.test/p HTTP/1.1")),
        ("absolute form, no Host", head(line=b"GET http://edge.test/p HTTP/1.1", host=b"")),
        ("absolute form, user", head(line=b"GET http://u@edge.test/p HTTP/1.1")),
        ("absolute form, ftp", head(line=b"GET ftp://edge.test/p HTTP/1.1")),
        ("absolute form, backslash", head(line=b"GET http:/\\other.test/p HTTP/1.1")),
        ("authority form", head(line=b"GET edge.test:80 HTTP/1.1")),
        ("two slashes", head(line=b"GET //other.test/p HTTP/1.1")),
        ("asterisk", head(line=b"GET * HTTP/1.1")),
        ("asterisk, OPTIONS", head(line=b"OPTIONS * HTTP/1.1")),
        ("CONNECT", head(line=b"CONNECT edge.test:80 HTTP/1.1") + SMUGGLED),
    ]:
        add("target and Host", name, data)

    for name, data, n in [
        ("coding in HTTP/1.0", head(coding, b"POST /p HTTP/1.0") + b"5\r\nhello\r\n0\r\n\r\n", 1),
        ("HTTP/1.0 with body", head(b"Content-Length: 5\r\n", b"POST /p HTTP/1.0") + b"hello", 1),
        ("HTTP/1.0 without length", head(b"", b"POST /p HTTP/1.0") + SMUGGLED, 1),
        ("HTTP/1.0 keep-alive, two", head(b"Connection: keep-alive\r\n", b"GET /p HTTP/1.0") + head(line=b"GET /q HTTP/1.0"), 2),
        ("two at once", head(line=plain) + head(line=b"GET /q HTTP/1.1"), 2),
        ("two at once, the first with a body", head(b"Content-Length: 5\r\n") + b"hello" + head(line=b"GET /q HTTP/1.1"), 2),
        ("close, then another", head(b"Connection: close\r\n", plain) + SMUGGLED, 1),
        ("GET with a body", head(b"Content-Length: %d\r\n" % len(SMUGGLED), plain) + SMUGGLED, 1),
        ("GET with chunks", head(coding, plain) + b"5\r\nhello\r\n0\r\n\r\n", 1),
        ("HEAD with a body", head(b"Content-Length: %d\r\n" % len(SMUGGLED), b"HEAD /p HTTP/1.1") + SMUGGLED, 1),
        ("body cut short", head(b"Content-Length: 500\r\n") + b"hello", 1),
        ("Expect", head(b"Expect: 100-continue\r\nContent-Length: 5\r\n") + b"hello", 1),
        ("Expect something else", head(b"Expect: 200-ok\r\nContent-Length: 5\r\n") + b"hello", 1),
        ("Expect, body is a request", head(b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(SMUGGLED)) + SMUGGLED, 1),
        ("Connection: Content-Length", head(b"Connection: content-length\r\nContent-Length: %d\r\n" % len(SMUGGLED)) + SMUGGLED, 1),
        ("Connection: Transfer-Encoding", head(b"Connection: transfer-encoding\r\n" + coding) + b"5\r\nhello\r\n0\r\n\r\n", 1),
        ("Connection: Host", head(b"Connection: host\r\n", plain), 1),
        ("Connection: X-Forwarded-For", head(b"Connection: x-forwarded-for, x-request-id\r\n", plain), 1),
    ]:
        add("versions and connections", name, data, n)

    upgrade = b"Connection: Upgrade\r\nUpgrade: "
    websocket = upgrade + b"websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    settings = b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    for name, data in [
        ("WebSocket the origin refuses", head(websocket, plain) + SMUGGLED),
        ("WebSocket with a bad version", head(websocket.replace(b"13", b"99"), plain) + SMUGGLED),
        ("WebSocket with a body", head(websocket + b"Content-Length: %d\r\n" % len(SMUGGLED), plain) + SMUGGLED),
        ("WebSocket with chunks", head(websocket + coding, plain) + b"0\r\n\r\n" + SMUGGLED),
        ("h2c", head(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" + settings, plain)),
        ("h2c, then another", head(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" + settings, plain) + SMUGGLED),
        ("h2c without settings named", head(b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + settings, plain) + SMUGGLED),
        ("h2c, then the preface", head(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" + settings, plain) + PREFACE + frame(4, 0, 0)),
        ("TLS", head(upgrade + b"TLS/1.0\r\n", plain) + SMUGGLED),
        ("nothing known", head(upgrade + b"x\r\n", plain) + SMUGGLED),
        ("HTTP/1.0", head(websocket, b"GET /p HTTP/1.0") + SMUGGLED),
    ]:
        add("Upgrade", name, data)
    return found


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    """A header field without indexing and without Huffman coding, so that every byte stays what it is."""
    def text(data):
        return bytes([len(data)]) + data if len(data) < 127 else b"\x7f" + varint(len(data) - 127) + data
    return b"\x00" + text(name) + text(value)


def varint(n):
    out = b""
    while n >= 128:
        out += bytes([n % 128 + 128])
        n //= 128
    return out + bytes([n])


HEADERS, DATA, END_HEADERS, END_STREAM = 1, 0, 4, 1


def request2(headers, body=None, trailers=None, stream=1):
    """The frames of a request; `body` of None ends the stream with the headers."""
    def block(fields, flags):
        data = b"".join(literal(name, value) for name, value in fields)
        return frame(HEADERS, END_HEADERS | flags, stream, data)
    out = block(headers, END_STREAM if body is None and trailers is None else 0)
    if body is not None:
        out += frame(DATA, 0 if trailers is not None else END_STREAM, stream, body)
    if trailers is not None:
        out += block(trailers, END_STREAM)
    return out


def pseudo(method=b"POST", path=b"/p", authority=HOST, scheme=b"http"):
    return [(b":method", method), (b":scheme", scheme), (b":authority", authority), (b":path", path)]


def http2():
    found = []

    def add(name, headers, body=b"hello", trailers=None):
        data = PREFACE + frame(4, 0, 0) + request2(headers, body, trailers)
        found.append(Payload("HTTP/2", name, data))

    usual = pseudo()
    for name, more in [
        ("transfer-encoding", [(b"transfer-encoding", b"chunked")]),
        ("connection", [(b"connection", b"close")]),
        ("connection nominates", [(b"connection", b"x-forwarded-for")]),
        ("keep-alive", [(b"keep-alive", b"timeout=5")]),
        ("proxy-connection", [(b"proxy-connection", b"close")]),
        ("upgrade", [(b"upgrade", b"websocket")]),
        ("te: gzip", [(b"te", b"gzip")]),
        ("te: trailers", [(b"te", b"trailers")]),
        ("upper case name", [(b"X-Upper", b"a")]),
        ("line break in a value", [(b"x", b"a\r\ntransfer-encoding: chunked")]),
        ("LF in a value", [(b"x", b"a\nhost: other")]),
        ("CR in a value", [(b"x", b"a\rb")]),
        ("NUL in a value", [(b"x", b"a\x00b")]),
        ("line break in a name", [(b"x: y\r\ntransfer-encoding", b"chunked")]),
        ("colon in a name", [(b"x:y", b"a")]),
        ("space in a name", [(b"x y", b"a")]),
        ("empty name", [(b"", b"a")]),
        ("space around a value", [(b"x", b" a ")]),
        ("unknown pseudo-header", [(b":x", b"a")]),
        ("pseudo-header after a header", [(b"x", b"a"), (b":path", b"/q")]),
        ("path twice", [(b":path", b"/smuggled")]),
        ("method twice", [(b":method", b"GET")]),
        ("authority twice", [(b":authority", b"other.test")]),
        ("status", [(b":status", b"200")]),
        ("host equals authority", [(b"host", HOST)]),
        ("host differs from authority", [(b"host", b"other.test")]),
        ("host twice", [(b"host", HOST), (b"host", HOST)]),
        ("content-length right", [(b"content-length", b"5")]),
        ("content-length too short", [(b"content-length", b"2")]),
        ("content-length too long", [(b"content-length", b"50")]),
        ("content-length zero", [(b"content-length", b"0")]),
        ("content-length twice", [(b"content-length", b"5"), (b"content-length", b"6")]),
        ("content-length list", [(b"content-length", b"5, 6")]),
        ("content-length plus", [(b"content-length", b"+5")]),
        ("content-length overflow", [(b"content-length", b"18446744073709551621")]),
        ("expect", [(b"expect", b"100-continue")]),
    ]:
        add(name, usual + more)
    for name, headers in [
        ("method with a request line", pseudo(method=b"GET /smuggled HTTP/1.1\r\nHost: edge.test\r\n\r\nGET")),
        ("method with space", pseudo(method=b"GET /x")),
        ("method empty", pseudo(method=b"")),
        ("path with line break", pseudo(path=b"/p HTTP/1.1\r\nhost: other\r\n\r\nGET /smuggled")),
        ("path with space", pseudo(path=b"/p q")),
        ("path with NUL", pseudo(path=b"/p\x00")),
        ("path empty", pseudo(path=b"")),
        ("path without slash", pseudo(path=b"p")),
        ("path absolute", pseudo(path=b"http://other.test/p")),
        ("path with fragment", pseudo(path=b"/p#f")),
        ("authority with line break", pseudo(authority=b"edge.test\r\nx: y")),
        ("authority with path", pseudo(authority=b"edge.test/x")),
        ("authority with user", pseudo(authority=b"u@edge.test")),
        ("authority empty", pseudo(authority=b"")),
        ("scheme with line break", pseudo(scheme=b"http\r\nx: y")),
        ("scheme with a request", pseudo(scheme=b"http://other.test/smuggled?")),
        ("no method", pseudo()[1:]),
        ("no scheme", [pair for pair in pseudo() if pair[0] != b":scheme"]),
        ("no path", pseudo()[:-1]),
        ("no authority, no host", [pair for pair in pseudo() if pair[0] != b":authority"]),
        ("no authority, host", [pair for pair in pseudo() if pair[0] != b":authority"] + [(b"host", HOST)]),
        ("CONNECT", [(b":method", b"CONNECT"), (b":authority", b"edge.test:80")]),
        ("extended CONNECT", pseudo(method=b"CONNECT") + [(b":protocol", b"websocket")]),
    ]:
        add(name, headers)
    add("content-length without a body", usual + [(b"content-length", b"5")], None)
    add("trailers", usual, trailers=[(b"x-t", b"v")])
    add("trailers with a pseudo-header", usual, trailers=[(b":path", b"/smuggled")])
    add("trailers with content-length", usual, trailers=[(b"content-length", b"50")])
    add("trailers with transfer-encoding", usual, trailers=[(b"transfer-encoding", b"chunked")])
    add("body is a request", pseudo(method=b"GET"), SMUGGLED)
    return found
