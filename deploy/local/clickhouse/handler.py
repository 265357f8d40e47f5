"""Answers the requests of one client connection."""

import itertools
import json
import logging
import os
import random
import socket
import socketserver
import string
import time
import uuid

from .codecs import CodecError, Identity, NativeEncoder, decoder, encoder
from .engine import DEFAULT_DATABASE, Counters, EngineError
from .formats import content_type, joiner
from .request import BadRequest, Request, body_pieces, parse_multipart, read_head
from .statement import Statement, parse

# URL parameters of the interface itself; every other one is a setting.
_OWN_PARAMETERS = {
    "query", "database", "user", "password", "quota_key", "session_id", "session_timeout",
    "session_check", "close_session", "query_id", "default_format", "compress", "decompress",
    "wait_end_of_query", "buffer_size", "stacktrace", "role", "client_protocol_version",
    "readonly",
}  # fmt: skip
# With these a part of a streamed result would not look like a piece of the whole.
_WHOLE_RESULT_ONLY = (b"totals", b"extremes", b"array_of_rows")

_STATUS_BY_ERROR = {
    name: status
    for status, names in {
        "400 Bad Request": "BAD_ARGUMENTS SYNTAX_ERROR TYPE_MISMATCH INCORRECT_DATA"
        " CANNOT_PARSE_TEXT CANNOT_PARSE_ESCAPE_SEQUENCE CANNOT_PARSE_QUOTED_STRING"
        " CANNOT_PARSE_DATE CANNOT_PARSE_DATETIME CANNOT_PARSE_NUMBER CANNOT_PARSE_BOOL"
        " CANNOT_PARSE_INPUT_ASSERTION_FAILED CANNOT_PARSE_UUID CANNOT_PARSE_IPV4"
        " CANNOT_PARSE_IPV6 CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING CANNOT_COMPILE_REGEXP"
        " VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE UNKNOWN_ELEMENT_IN_AST UNKNOWN_TYPE_OF_AST_NODE"
        " TOO_DEEP_AST TOO_BIG_AST UNEXPECTED_AST_STRUCTURE BAD_REQUEST_PARAMETER",
        "401 Unauthorized": "REQUIRED_PASSWORD",
        "403 Forbidden": "UNKNOWN_USER WRONG_PASSWORD AUTHENTICATION_FAILED"
        " DATABASE_ACCESS_DENIED ACCESS_DENIED",
        "404 Not Found": "UNKNOWN_TABLE UNKNOWN_FUNCTION UNKNOWN_IDENTIFIER UNKNOWN_TYPE"
        " UNKNOWN_STORAGE UNKNOWN_DATABASE UNKNOWN_SETTING UNKNOWN_DIRECTION_OF_SORTING"
        " UNKNOWN_AGGREGATE_FUNCTION UNKNOWN_FORMAT UNKNOWN_DATABASE_ENGINE"
        " UNKNOWN_TYPE_OF_QUERY UNKNOWN_ROLE",
        "408 Request Timeout": "TIMEOUT_EXCEEDED",
        "413 Request Entity Too Large": "QUERY_IS_TOO_LARGE",
        "501 Not Implemented": "NOT_IMPLEMENTED",
        "503 Service Unavailable": "SOCKET_TIMEOUT CANNOT_OPEN_FILE",
    }.items()
    for name in names.split()
}
_log = logging.getLogger(__name__)
_SPOOL_NUMBERS = itertools.count()


class Connection(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.request.makefile("rb", buffering=1 << 18) as rfile:
            while not self.server.draining.is_set():
                try:
                    request = read_head(rfile)
                    if request is None:
                        return
                    self.server.begin()
                    try:
                        keep_alive = Exchange(self, request, rfile).answer()
                    finally:
                        self.server.end()
                except BadRequest as error:
                    body = f"{error}\n".encode()
                    self.request.sendall(
                        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n"
                        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
                    )
                    return
                if not keep_alive:
                    return


class Exchange:
    """One request and its response."""

    def __init__(self, connection: Connection, request: Request, rfile):
        self._socket = connection.request
        self._server = connection.server
        self._engine = connection.server.engine
        self._request = request
        self._rfile = rfile
        self._spool = os.path.join(self._server.spool, str(next(_SPOOL_NUMBERS)))
        self._query_id = request.text("query_id") or str(uuid.uuid4())
        self._tag = "".join(random.choices(string.ascii_lowercase, k=16))
        self._started = time.monotonic_ns()
        self._counters = Counters()
        self._head_sent = False
        self._broken = False

    def answer(self) -> bool:
        """Sends the response; says whether the connection can be kept."""
        if self._request.headers.get("expect", "").lower() == "100-continue":
            self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            self._dispatch()
        except EngineError as error:
            self._send_error(error)
        except CodecError as error:
            self._send_error(EngineError(f"Code: 271. DB::Exception: {error}. (CANNOT_DECOMPRESS)"))
        except OSError as error:
            if isinstance(error, (ConnectionError, TimeoutError)):
                raise
            self._send_error(EngineError(f"Code: 243. DB::Exception: {error}. (NOT_ENOUGH_SPACE)"))
        finally:
            if os.path.exists(self._spool):
                os.unlink(self._spool)
        return self._request.keep_alive and not self._broken

    def _dispatch(self):
        request = self._request
        asks_nothing = request.method in ("GET", "HEAD") and "query" not in request.parameters
        if request.path in ("/ping", "/replicas_status") or (request.path == "/" and asks_nothing):
            self._read_body_into(lambda piece: None)
            self._send_whole("200 OK", b"Ok.\n", {"Content-Type": "text/html; charset=UTF-8"})
        elif request.path != "/":
            self._read_body_into(lambda piece: None)
            text = f"There is no handle {request.path}\n\nUse / or /ping for health checks.\n"
            self._send_whole("404 Not Found", text.encode())
        else:
            self._run(*self._statement())

    def _statement(self) -> tuple[Statement, str]:
        """The statement, and the file with its data if it takes any."""
        request = self._request
        in_url = request.parameters.get("query", b"")
        statement = parse(in_url)
        if statement.takes_data:
            with open(self._spool, "wb") as spool:
                spool.write(statement.data())
                self._read_body_into(spool.write)
            return statement, self._spool
        body = bytearray()
        self._read_body_into(body.extend)
        kind = request.headers.get("content-type", "")
        if kind.lower().startswith("multipart/form-data"):
            request.parameters.update(parse_multipart(bytes(body), kind))
            body = request.parameters.get("query", b"")
        elif in_url and body:
            body = in_url + b"\n" + body
        statement = parse(bytes(body) or in_url)
        if not statement.takes_data:
            return statement, ""
        with open(self._spool, "wb") as spool:
            spool.write(statement.data())
        return statement, self._spool

    def _read_body_into(self, sink):
        request = self._request
        native = request.text("decompress") in ("1", "true")
        pieces = body_pieces(request, self._rfile)
        try:
            decode = decoder(request.headers.get("content-encoding", ""), native)
            for piece in pieces:
                sink(decode.feed(piece))
            if native or not isinstance(decode, Identity):
                sink(decode.finish())
        except (CodecError, OSError):
            # Read to the end, so that the client gets to see the answer.
            for _ in pieces:
                pass
            raise

    def _run(self, statement: Statement, data_file: str):
        request = self._request
        sql = statement.sql
        if not sql.strip():
            raise EngineError("Code: 62. DB::Exception: Empty query. (SYNTAX_ERROR)")
        default_format = request.text("default_format", "x-clickhouse-format")
        if statement.takes_data:
            sql = statement.reading_from(data_file, statement.format or default_format or "Values")
            output_format = "Null"
        else:
            output_format = statement.format or default_format or "TabSeparated"
        database = request.text("database", "x-clickhouse-database") or DEFAULT_DATABASE
        with self._engine.session(database, self._settings()) as session:
            self._check_read_only(session, statement.sql[: statement.data_start])
            parameters = self._query_parameters()
            join = joiner(output_format) if self._may_stream(statement) else None
            if join:
                parts = session.stream(sql, output_format, parameters)
                self._send_stream(parts, join, output_format)
                return
            output, result = session.query(sql, output_format, parameters)
            self._counters.add(result, statement.kind.startswith("insert"))
        self._send_output(output, output_format)

    def _settings(self) -> dict[str, str]:
        settings = {
            name: value.decode("utf-8", "replace")
            for name, value in self._request.parameters.items()
            if name not in _OWN_PARAMETERS and not name.startswith("param_")
        }
        for name in settings:
            # It becomes part of a SET statement.
            if not name.isidentifier():
                raise EngineError(
                    f"Code: 115. DB::Exception: Unknown setting '{name}'. (UNKNOWN_SETTING)",
                    self._engine.version,
                )
        return settings

    def _query_parameters(self) -> dict[str, str]:
        # The engine reads values in escaped form, in which any byte can be written.
        return {
            name[len("param_") :]: _escaped(value)
            for name, value in self._request.parameters.items()
            if name.startswith("param_")
        }

    def _check_read_only(self, session, sql: bytes):
        # ClickHouse lets GET read only, whatever the user may do.
        limited = self._request.method in ("GET", "HEAD")
        limited = limited or self._request.text("readonly") in ("1", "2")
        if limited and not session.is_read_only(sql):
            raise EngineError(
                "Code: 164. DB::Exception: Cannot execute query in readonly mode. For queries over"
                " HTTP, method GET implies readonly. You should use method POST for modifying"
                " queries. (READONLY)",
                self._engine.version,
            )

    def _may_stream(self, statement: Statement) -> bool:
        whole = self._request.text("wait_end_of_query") in ("1", "true")
        lowered = statement.sql.lower() if statement.kind == "read" else b""
        names = " ".join(self._request.parameters).encode()
        return (
            statement.kind == "read"
            and not whole
            and not any(word in lowered or word in names for word in _WHOLE_RESULT_ONLY)
        )

    def _send_stream(self, parts, join, output_format: str):
        """Sends a large result as it comes, and a small one with its length."""
        output = memoryview(b"")
        try:
            for data, result in parts:
                if output:
                    self._send_piece(output, output_format)
                self._counters.add(result)
                output = join.part(data)
        finally:
            parts.close()
        output = b"".join((output, join.close()))
        if not self._head_sent:
            self._send_output(output, output_format)
            return
        self._send_piece(output, output_format)
        rest = self._encoder.finish()
        self._socket.sendall((b"%x\r\n%b\r\n" % (len(rest), rest) if rest else b"") + b"0\r\n\r\n")

    def _send_piece(self, output, output_format: str):
        head = b""
        if not self._head_sent:
            headers = self._result_headers(output_format)
            self._encoder = self._start_encoder(headers)
            head = self._head("200 OK", headers | {"Transfer-Encoding": "chunked"})
            self._head_sent = True
        output = self._encoder.feed(output)
        if output:
            self._socket.sendall(b"".join((head, b"%x\r\n" % len(output), output, b"\r\n")))
        elif head:
            self._socket.sendall(head)

    def _send_output(self, output, output_format: str):
        headers = self._result_headers(output_format)
        encode = self._start_encoder(headers)
        self._send_whole("200 OK", encode.feed(output) + encode.finish(), headers)

    def _result_headers(self, output_format: str) -> dict[str, str]:
        return {
            "Content-Type": content_type(output_format),
            "X-ClickHouse-Format": output_format,
            "X-ClickHouse-Exception-Tag": self._tag,
        }

    def _start_encoder(self, headers: dict[str, str]):
        if self._request.text("compress") in ("1", "true"):
            return NativeEncoder()
        if self._request.text("enable_http_compression", default="1") in ("0", "false"):
            return Identity()
        name, encode = encoder(self._request.headers.get("accept-encoding", ""))
        if name:
            headers["Content-Encoding"] = name
        return encode

    def _send_error(self, error: EngineError):
        text = f"{error}\n".encode("utf-8", "replace")
        _log.info("%s %s", self._query_id, error)
        if self._head_sent:
            # Too late for a status: say it in the body and leave out the last
            # chunk, so that no client takes the result for complete.
            tag = self._tag.encode()
            mark = b"\r\n__exception__\r\n"
            text = b"%b%b\r\n%b%d %b%b" % (mark, tag, text, len(text), tag, mark)
            text = self._encoder.feed(text)
            self._socket.sendall(b"%x\r\n%b\r\n" % (len(text), text))
            self._broken = True
            return
        headers = {
            "Content-Type": "text/plain; charset=UTF-8",
            "X-ClickHouse-Exception-Code": str(error.code),
        }
        status = _STATUS_BY_ERROR.get(error.name, "500 Internal Server Error")
        self._send_whole(status, text, headers)

    def _send_whole(self, status: str, body: bytes, headers: dict[str, str] | None = None):
        head = self._head(status, (headers or {}) | {"Content-Length": str(len(body))})
        self._head_sent = True
        self._socket.sendall(head if self._request.method == "HEAD" else head + body)

    def _head(self, status: str, headers: dict[str, str]) -> bytes:
        counters = self._counters
        elapsed = time.monotonic_ns() - self._started
        summary = {name: str(value) for name, value in vars(counters).items()}
        summary |= {"total_rows_to_read": str(counters.read_rows), "elapsed_ns": str(elapsed)}
        lines = [
            f"HTTP/1.1 {status}",
            "Connection: " + ("keep-alive" if self._request.keep_alive else "close"),
            "X-ClickHouse-Server-Display-Name: " + self._engine.host,
            "X-ClickHouse-Query-Id: " + "".join(c for c in self._query_id if c.isprintable()),
            "X-ClickHouse-Timezone: " + self._engine.timezone,
            "X-ClickHouse-Summary: " + json.dumps(summary, separators=(",", ":")),
        ]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _escaped(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return "".join(chr(byte) if byte < 0x80 else f"\\x{byte:02x}" for byte in value)
