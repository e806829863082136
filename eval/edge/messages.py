"""A strict reader of HTTP/1 messages: what the bytes on a wire mean if nothing about them is repaired."""
import re

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")


class Broken(Exception):
    """The bytes are no message, or not one alone."""


class Message:
    def __init__(self, start, headers, body):
        self.start, self.headers, self.body = start, headers, body

    def key(self):
        """What both sides of a hop must agree on: method, target, body."""
        method, target, _ = self.start.split(b" ", 2)
        return method.decode("latin-1"), target.decode("latin-1"), self.body.decode("latin-1")

    def get(self, name):
        values = [value for own, value in self.headers if own == name]
        return values[0] if values else None

    @property
    def status(self):
        return int(self.start.split(b" ")[1])


def split_head(data):
    """Start line, headers and what follows; None while the head is not whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = data[:end].split(b"\r\n")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.match(name) or re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise Broken(f"header line {line!r}")
        headers.append((name.decode().lower(), value.strip(b" \t")))
    return lines[0], headers, data[end + 4:]


def split_body(headers, rest, until_close):
    """Body and what follows; None while it is not whole."""
    lengths = [value for name, value in headers if name == "content-length"]
    codings = [value for name, value in headers if name == "transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise Broken("more than one Content-Length or Transfer-Encoding")
    if codings:
        if codings[0].lower() != b"chunked":
            raise Broken(f"transfer coding {codings[0]!r}")
        return chunks(rest)
    if lengths:
        if not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
            raise Broken(f"length {lengths[0]!r}")
        n = int(lengths[0])
        return (rest[:n], rest[n:]) if len(rest) >= n else None
    return (rest, b"") if until_close else (b"", rest)


def chunks(rest):
    body = b""
    while True:
        line, end, after = rest.partition(b"\r\n")
        if not end:
            return None
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", line):
            raise Broken(f"chunk size {line!r}")
        n = int(line, 16)
        if n == 0:
            if len(after) < 2:
                return None
            if after[:2] != b"\r\n":
                raise Broken("trailers")
            return body, after[2:]
        if len(after) < n + 2:
            return None
        if after[n:n + 2] != b"\r\n":
            raise Broken("chunk end")
        body, rest = body + after[:n], after[n + 2:]


def requests(data):
    """All requests in the bytes, and what is left of an unfinished one."""
    found = []
    while data:
        head = split_head(data)
        if head is None:
            break
        start, headers, rest = head
        if len(start.split(b" ")) != 3:
            raise Broken(f"request line {start!r}")
        parts = split_body(headers, rest, until_close=False)
        if parts is None:
            break
        found.append(Message(start, headers, parts[0]))
        data = parts[1]
    return found, data


def responses(data, is_closed):
    """All final responses in the bytes, and what is left of an unfinished one."""
    found = []
    while data:
        head = split_head(data)
        if head is None:
            break
        start, headers, rest = head
        status = int(start.split(b" ")[1])
        if status < 200 and status != 101:
            data = rest
            continue
        if status in (101, 204, 304):
            parts = (b"", rest)
        else:
            named = {name for name, _ in headers} & {"content-length", "transfer-encoding"}
            if not named and not is_closed:
                break
            parts = split_body(headers, rest, until_close=not named)
        if parts is None:
            break
        found.append(Message(start, headers, parts[0]))
        data = parts[1]
    return found, data
