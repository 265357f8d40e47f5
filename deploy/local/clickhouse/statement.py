"""Takes a statement apart far enough to know where SQL ends and data begins.

Everything is bytes: neither keys in SQL nor the data behind an INSERT need be
UTF-8.
"""

import re
from dataclasses import dataclass
from typing import Iterator, NamedTuple

_TOKEN = re.compile(
    rb"""
      (?P<skip>  \s+ | --[^\n]* | \#[!\ ][^\n]* | /\*.*?\*/ )
    | (?P<text>  '(?:[^'\\]|\\.|'')*'
               | `(?:[^`\\]|\\.|``)*`
               | "(?:[^"\\]|\\.|"")*"
               | \$(?P<tag>[A-Za-z0-9_]*)\$.*?\$(?P=tag)\$ )
    | (?P<word>  [A-Za-z_][A-Za-z0-9_]* )
    | (?P<open>  [(\[{] )
    | (?P<close> [)\]}] )
    | (?P<other> . )
    """,
    re.X | re.S,
)

_READS = {b"SELECT", b"WITH", b"FROM", b"("}
# After these, VALUES or FORMAT is the name of a table and no keyword.
_NAME_FOLLOWS = {b"INTO", b"TABLE", b"FUNCTION", b"."}


class Token(NamedTuple):
    kind: str
    upper: bytes
    start: int
    end: int
    depth: int


@dataclass
class Statement:
    """What the HTTP layer has to know about one statement."""

    sql: bytes
    kind: str  # "read", "insert", "insert_select" or "other"
    format: str | None = None
    # INSERT: where SETTINGS or FORMAT starts, where FORMAT starts, where data starts.
    head_end: int = 0
    format_start: int = 0
    data_start: int | None = None
    # INSERT ... SELECT: the span of input('structure') and of its argument.
    input_call: tuple[int, int] | None = None
    input_structure: tuple[int, int] = (0, 0)

    @property
    def takes_data(self) -> bool:
        return self.kind == "insert" or self.input_call is not None

    def data(self) -> bytes:
        """The data that came in the same string as the INSERT."""
        return b"" if self.data_start is None else self.sql[self.data_start :]

    def reading_from(self, path: str, data_format: str) -> bytes:
        """The same INSERT with its data in a file.

        The engine ends data inside a query at a `;` or a newline, so anything
        binary has to come from a file.
        """
        if self.input_call:
            start, end = self.input_call
            structure = self.sql[slice(*self.input_structure)]
            source = f"file('{path}', '{data_format}', ".encode() + structure + b")"
            return self.sql[:start] + source + self.sql[end : self.format_start]
        head, settings = self.sql[: self.head_end], self.sql[self.head_end : self.format_start]
        infile = f" FROM INFILE '{path}' ".encode()
        return head + infile + settings + f" FORMAT {data_format}".encode()


def parse(sql: bytes) -> Statement:
    """Finds the kind of a statement, its FORMAT clause and its inline data."""
    tokens = _tokens(sql)
    first = next(tokens, None)
    keyword = first.upper if first else b""
    if keyword == b"INSERT":
        return _parse_insert(sql, tokens)
    kind = "read" if keyword in _READS else "other"
    return Statement(sql, kind, _closing_format(sql, tokens))


def _tokens(sql: bytes) -> Iterator[Token]:
    depth = position = 0
    while found := _TOKEN.match(sql, position):
        position = found.end()
        kind = found.lastgroup
        if kind == "skip":
            continue
        depth -= kind == "close"
        text = found.group()
        yield Token(kind, text.upper() if kind == "word" else text, found.start(), position, depth)
        depth += kind == "open"


def _closing_format(sql: bytes, tokens: Iterator[Token]) -> str | None:
    """The format named by a FORMAT clause at the end of a statement."""
    previous, name = None, None
    for token in tokens:
        if name and token.upper in (b"SETTINGS", b";"):
            break
        named = previous and previous.upper == b"FORMAT" and token.depth == 0
        name = token if named and token.kind == "word" else None
        previous = token
    return sql[name.start : name.end].decode() if name else None


def _parse_insert(sql: bytes, tokens: Iterator[Token]) -> Statement:
    statement = Statement(sql, "insert", head_end=len(sql), format_start=len(sql))
    previous = Token("word", b"INSERT", 0, 0, 0)
    for token in tokens:
        keyword = token.kind == "word" and token.depth == 0 and previous.upper not in _NAME_FOLLOWS
        selects = statement.kind == "insert_select"
        if keyword and token.upper in (b"SELECT", b"WITH") and not selects:
            statement.kind = "insert_select"
        elif selects and previous.upper == b"INPUT" and token.upper == b"(":
            _note_input(statement, previous.start, token, tokens)
        elif keyword and token.upper == b"SETTINGS" and not selects:
            statement.head_end = min(statement.head_end, token.start)
        elif keyword and token.upper == b"VALUES" and not selects:
            _data_follows(statement, token, "Values", token.end)
            break
        elif keyword and token.upper == b"FORMAT" and (not selects or statement.input_call):
            name = next(tokens, None)
            if name is not None:
                data = re.compile(rb"[ \t\r\f]*\n?").match(sql, name.end).end()
                _data_follows(statement, token, sql[name.start : name.end].decode(), data)
            break
        elif token.upper == b";" and token.depth == 0:
            statement.head_end = min(statement.head_end, token.start)
            statement.format_start = token.start
            break
        previous = token
    return statement


def _note_input(statement: Statement, start: int, opening: Token, tokens: Iterator[Token]):
    for token in tokens:
        if token.kind == "close" and token.depth == opening.depth:
            statement.input_call = (start, token.end)
            statement.input_structure = (opening.end, token.start)
            return


def _data_follows(statement: Statement, keyword: Token, name: str, data_start: int):
    statement.format = name
    statement.head_end = min(statement.head_end, keyword.start)
    statement.format_start = keyword.start
    if statement.sql[data_start:].strip(b" \t\r\n;"):
        statement.data_start = data_start
