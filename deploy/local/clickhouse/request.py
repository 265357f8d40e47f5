"""Reads HTTP/1.1 requests. The parser of the standard library spends more time
on the headers than the engine does on a small query."""

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

MAX_HEAD_LINE = 1 << 20
# A query in the body is held in memory; data in the body is not.
READ_SIZE = 1 << 20


class BadRequest(Exception):
    """A request that cannot be answered; the connection ends with it."""


@dataclass
class Request:
    method: str
    path: str
    parameters: dict[str, bytes]
    headers: dict[str, str]
    keep_alive: bool

    def text(self, name: str, header: str = "", default: str = "") -> str:
        if name in self.parameters:
            return self.parameters[name].decode("utf-8", "replace")
        return self.headers.get(header, default)


def read_head(rfile) -> Request | None:
    """The next request, or None when the client has closed the connection."""
    line = rfile.readline(MAX_HEAD_LINE)
    while line in (b"\r\n", b"\n"):
        line = rfile.readline(MAX_HEAD_LINE)
    if not line:
        return None
    parts = line.decode("latin-1").split()
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequest("not an HTTP/1 request")
    headers = {}
    while (line := rfile.readline(MAX_HEAD_LINE)) not in (b"\r\n", b"\n"):
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not line.endswith(b"\n"):
            raise BadRequest("a header line without a colon")
        headers[name.strip().lower()] = value.strip()
    method, target, version = parts
    path, _, query = target.partition("?")
    connection = headers.get("connection", "").lower()
    keep_alive = "close" not in connection if version == "HTTP/1.1" else "keep-alive" in connection
    return Request(method, path, parse_query(query.encode("latin-1")), headers, keep_alive)


def parse_query(query: bytes) -> dict[str, bytes]:
    parameters = {}
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.replace(b"+", b" ").partition(b"=")
            parameters[unquote_to_bytes(name).decode("utf-8", "replace")] = unquote_to_bytes(value)
    return parameters


def parse_multipart(body: bytes, content_type: str) -> dict[str, bytes]:
    """The fields of a multipart/form-data body."""
    _, _, boundary = content_type.partition("boundary=")
    mark = b"--" + boundary.split(";")[0].strip().strip('"').encode("latin-1")
    fields = {}
    for part in (b"\r\n" + body).split(b"\r\n" + mark)[1:]:
        head, blank, value = part.partition(b"\r\n\r\n")
        _, _, name = head.partition(b'name="')
        if blank and name:
            fields[name.partition(b'"')[0].decode("utf-8", "replace")] = value
    return fields


def body_pieces(request: Request, rfile):
    """Yields the body as it was sent; a body that breaks off raises."""
    if "chunked" in request.headers.get("transfer-encoding", "").lower():
        yield from _chunks(rfile)
    else:
        try:
            length = int(request.headers.get("content-length") or 0)
        except ValueError:
            raise BadRequest("Content-Length is no number") from None
        yield from _exactly(rfile, length)


def _chunks(rfile):
    while True:
        line = rfile.readline(MAX_HEAD_LINE)
        try:
            size = int(line.split(b";")[0], 16)
        except ValueError:
            raise BadRequest("the body breaks off") from None
        if size == 0:
            break
        yield from _exactly(rfile, size)
        if rfile.readline(MAX_HEAD_LINE) not in (b"\r\n", b"\n"):
            raise BadRequest("the body breaks off")
    while rfile.readline(MAX_HEAD_LINE) not in (b"\r\n", b"\n", b""):
        pass


def _exactly(rfile, length: int):
    while length:
        piece = rfile.read(min(length, READ_SIZE))
        if not piece:
            raise BadRequest("the body breaks off")
        length -= len(piece)
        yield piece
