"""Joins the parts of a streamed result into one document.

The engine hands out a large result in parts and every part is a document of
its own, with header and end marker. A reader of an ArrowStream would stop at
the first end marker and take a part for the whole, so the marks in between have
to go. A format that is not listed here is fetched in one piece.
"""

from typing import Callable

# What to cut from the front of every part but the first.
Header = Callable[[bytes], int]


def _none(part: bytes) -> int:
    return 0


def _lines(count: int) -> Header:
    def length(part: bytes) -> int:
        end = 0
        for _ in range(count):
            end = part.index(b"\n", end) + 1
        return end

    return length


def _row_binary(strings_per_column: int) -> Header:
    def length(part: bytes) -> int:
        columns, position = _varint(part, 0)
        for _ in range(columns * strings_per_column):
            size, position = _varint(part, position)
            position += size
        return position

    return length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _arrow_schema(part: bytes) -> int:
    # An IPC message: continuation marker, length of the metadata, metadata. The
    # schema is the first message of a stream and has no body.
    return 8 + int.from_bytes(part[4:8], "little")


ARROW_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"

_HEADERS: dict[str, Header] = {
    "arrowstream": _arrow_schema,
    "rowbinarywithnames": _row_binary(1),
    "rowbinarywithnamesandtypes": _row_binary(2),
}
for _name in ("tabseparated", "tsv", "tabseparatedraw", "tsvraw", "csv", "jsoncompacteachrow"):
    _HEADERS[_name] = _none
    _HEADERS[_name + "withnames"] = _lines(1)
    _HEADERS[_name + "withnamesandtypes"] = _lines(2)
for _name in ("native", "rowbinary", "jsoneachrow", "jsonlines", "ndjson", "tskv", "null"):
    _HEADERS[_name] = _none


def joiner(name: str) -> "Joiner | None":
    """A joiner for the format, or None where parts cannot be joined."""
    header = _HEADERS.get(name.lower())
    return Joiner(header, ARROW_END if name.lower() == "arrowstream" else b"") if header else None


class Joiner:
    """Turns the parts of one result into consecutive pieces of one document."""

    def __init__(self, header: Header, end: bytes):
        self._header = header
        self._end = end
        self._started = False

    def part(self, part: bytes) -> memoryview:
        start = self._header(part) if self._started else 0
        self._started = True
        return memoryview(part)[start : len(part) - len(self._end)]

    def close(self) -> bytes:
        """The end marker of the whole; a broken result must never get it."""
        return self._end


_TYPES = {
    "JSON": "application/json; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "TabS": "text/tab-separated-values; charset=UTF-8",
    "NDJSON": "application/x-ndjson; charset=UTF-8",
    "XML": "application/xml; charset=UTF-8",
    "Arrow": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "Native": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "ORC": "application/octet-stream",
}


def content_type(name: str) -> str:
    if name.startswith("CSV"):
        return _TYPES["CSV"] + ("present" if "WithNames" in name else "absent")
    if name.endswith("EachRow"):
        return _TYPES["NDJSON"]
    for prefix, value in _TYPES.items():
        if name.startswith(prefix):
            return value
    return "text/plain; charset=UTF-8"
