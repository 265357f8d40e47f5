"""The engine and its connections.

A connection runs one statement at a time and has its own settings and
database, so every request has one of its own, which takes less than a
millisecond: statements of different requests run in parallel, and nothing that
a request sets is left for the next one. A setting cannot be taken back either:
`compatibility` changes hundreds of others, which stay when it is reset.
"""

import contextlib
import re
import threading
from dataclasses import dataclass

from chdb import connect

DEFAULT_DATABASE = "default"
# Where the embedded engine is more lenient than a server.
SERVER_SETTINGS = {"implicit_select": "0"}
_NOT_STREAMABLE = "Streaming query is not supported"
_FILE_REMARKS = re.compile(
    r": \(in file/uri [^)]*\)|: While executing File\b|: data for INSERT was parsed from file"
)


class EngineError(Exception):
    """An exception of the engine, in the words of ClickHouse's HTTP interface."""

    def __init__(self, message: str, version: str = ""):
        code = re.search(r"Code: (\d+)\. ", message)
        self.code = int(code.group(1)) if code else 1002
        self.name = _name(message)
        body = message[code.end() :] if code else "DB::Exception: " + message
        # The engine wraps the exceptions of a file behind an INSERT again,
        # and names the temporary file, which means nothing to the client.
        body = re.sub(r"^DB::Exception: Code: \d+\. (?=DB::Exception: )", "", body)
        body = _FILE_REMARKS.sub("", body)
        body = re.sub(r"[.\s]*(\([A-Z][A-Z0-9_]+\)|\(version [^)]*\)|[.\s]+)+$", "", body)
        suffix = f" (version {version} (official build))" if version else ""
        super().__init__(f"Code: {self.code}. {body}. ({self.name}){suffix}")


def _name(message: str) -> str:
    names = re.findall(r"\(([A-Z][A-Z0-9_]{3,})\)", message)
    return names[-1] if names else "UNKNOWN_EXCEPTION"


@dataclass
class Counters:
    """What X-ClickHouse-Summary reports."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    result_bytes: int = 0

    def add(self, result, is_insert: bool = False):
        self.read_rows += result.storage_rows_read() or (result.rows_read() if is_insert else 0)
        self.read_bytes += result.storage_bytes_read() or (result.bytes_read() if is_insert else 0)
        self.written_rows += result.rows_written()
        self.written_bytes += result.bytes_written()
        self.result_rows += result.rows_written() if is_insert else result.rows_read()
        self.result_bytes += result.bytes_written() if is_insert else result.size()


class Engine:
    """One data folder, opened by this process alone."""

    def __init__(self, path: str, max_connections: int):
        self._path = path
        # The engine lives as long as any connection does; this one outlives all.
        self._anchor = connect(path)
        self._slots = threading.BoundedSemaphore(max_connections)
        self.version = ""
        with self.session(DEFAULT_DATABASE, {}) as session:
            row = session.query(b"SELECT version(), timezone(), hostName()", "TSV", {})[0]
        self.version, self.timezone, self.host = row.decode().strip().split("\t")

    @contextlib.contextmanager
    def session(self, database: str, settings: dict[str, str]):
        """A connection with these settings, for one request."""
        with self._slots:
            session = Session(self)
            try:
                session.configure(database, SERVER_SETTINGS | settings)
                yield session
            finally:
                session.close()

    def open_connection(self):
        return connect(self._path)

    def close(self):
        self._anchor.close()


class Session:
    """The connection of one request."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._owner = engine.open_connection()
        # The object below the public class: it takes bytes and returns counters.
        self._connection = self._owner._conn

    def configure(self, database: str, settings: dict[str, str]):
        changes = ", ".join(f"{name} = {_quote(value)}" for name, value in settings.items())
        self._run(self._connection.query, b"SET " + changes.encode(), "Null", {})
        if database != DEFAULT_DATABASE:
            use = b"USE `" + database.replace("\\", "\\\\").replace("`", "\\`").encode() + b"`"
            self._run(self._connection.query, use, "Null", {})

    def is_read_only(self, sql: bytes) -> bool:
        return self._connection.classify_query(sql)["query_class"].name == "READ_ONLY"

    def query(self, sql: bytes, output_format: str, parameters: dict):
        """Runs a statement to its end: (output, result with counters)."""
        result = self._run(self._connection.query, sql, output_format, parameters)
        return result.bytes() or b"", result

    def stream(self, sql: bytes, output_format: str, parameters: dict):
        """Yields (part, result) as the engine produces them.

        A statement that the engine cannot stream arrives as one part.
        """
        try:
            handle = self._run(self._connection.send_query, sql, output_format, parameters)
        except EngineError as error:
            if _NOT_STREAMABLE not in str(error):
                raise
            yield self.query(sql, output_format, parameters)
            return
        finished = False
        try:
            while True:
                result = self._run_fetch(handle)
                rows = result.rows_read() if result is not None else 0
                data = result.bytes() or b"" if result is not None else b""
                if rows or data:
                    yield data, result
                if not rows:
                    finished = True
                    return
        except EngineError:
            finished = True
            raise
        finally:
            if not finished:
                self._cancel(handle)

    def close(self):
        self._connection = None
        self._owner.close()

    def _run(self, function, sql, output_format, parameters):
        try:
            return function(sql, output_format, params=parameters)
        except RuntimeError as error:
            raise EngineError(str(error), self._engine.version) from None

    def _run_fetch(self, handle):
        try:
            return self._connection.streaming_fetch_result(handle)
        except RuntimeError as error:
            raise EngineError(str(error), self._engine.version) from None

    def _cancel(self, handle):
        with contextlib.suppress(RuntimeError):
            self._connection.streaming_cancel_query(handle)


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
