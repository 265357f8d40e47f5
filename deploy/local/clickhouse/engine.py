"""The engine and its pool of connections.

A connection runs one statement at a time and carries its own settings and
database, so every request borrows one: statements of different requests run in
parallel, and no setting leaks into the next request.
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
        # The engine wraps the exceptions of a file behind an INSERT once more,
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
        self._idle: list[Session] = []
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(max_connections)
        self.version = ""
        first = Session(self)
        row = first.query(b"SELECT version(), timezone(), hostName()", "TSV", {})[0]
        self.version, self.timezone, self.host = row.decode().strip().split("\t")
        self._idle.append(first)

    @contextlib.contextmanager
    def session(self, database: str, settings: dict[str, str]):
        """Lends a connection with exactly these settings."""
        settings = SERVER_SETTINGS | settings
        with self._slots:
            session = self._take(database, settings)
            try:
                session.configure(database, settings)
                yield session
            finally:
                if session.reusable:
                    with self._lock:
                        self._idle.append(session)
                else:
                    session.close()

    def open_connection(self):
        return connect(self._path)

    def close(self):
        with self._lock:
            sessions, self._idle = self._idle, []
        for session in sessions:
            session.close()
        self._anchor.close()

    def _take(self, database, settings) -> "Session":
        with self._lock:
            for index in range(len(self._idle) - 1, -1, -1):
                if self._idle[index].matches(database, settings):
                    return self._idle.pop(index)
            if self._idle:
                return self._idle.pop()
        return Session(self)


class Session:
    """One connection while a request has it."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._owner = engine.open_connection()
        # The object below the public class: it takes bytes and returns counters.
        self._connection = self._owner._conn
        self._database = DEFAULT_DATABASE
        self._settings: dict[str, str] = {}
        self.reusable = True

    def matches(self, database, settings) -> bool:
        return self._database == database and self._settings == settings

    def configure(self, database: str, settings: dict[str, str]):
        changes = [
            f"{name} = {_quote(value)}"
            for name, value in settings.items()
            if self._settings.get(name) != value
        ]
        changes += [f"{name} = DEFAULT" for name in self._settings if name not in settings]
        self.reusable = False
        if changes:
            self._run(self._connection.query, ("SET " + ", ".join(changes)).encode(), "Null", {})
            self._settings = dict(settings)
        if database != self._database:
            use = b"USE `" + database.replace("\\", "\\\\").replace("`", "\\`").encode() + b"`"
            self._run(self._connection.query, use, "Null", {})
            self._database = database
        self.reusable = True

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
            # What the statement had produced by then would precede the next result of the connection.
            self.reusable = False
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
        try:
            self._connection.streaming_cancel_query(handle)
        except RuntimeError:
            self.reusable = False


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
