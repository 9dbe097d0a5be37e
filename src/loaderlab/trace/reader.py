"""Reads the events of a trace file one at a time, with memory that does not grow with the file.

The standard library's C decoder decodes each event; the code here reads the text around it. A streaming parser (ijson
with yajl) was not faster and rejects content of real traces: a bare ``inf`` (pytorch/kineto#105), line breaks inside a
name (pytorch/pytorch#130622), integers of more than 63 bits. Windows paths with unescaped backslashes
(pytorch/pytorch#98432) are read as if they were escaped, if the backslash does not begin a valid JSON escape.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from loaderlab.config import UserError, WrongUsage, refuse
from loaderlab.system.causes import reason, with_cause

CHUNK = 1 << 20  # bytes read at a time
LONGEST = 1 << 25  # characters of one event, or of one other value of the file
GZIP = b"\x1f\x8b"
DECODER = json.JSONDecoder(strict=False)  # not strict: accepts line breaks inside a string
COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
BLANK = re.compile(r"[ \t\r\n]*")
BARE = re.compile(r'("\s*:\s*)-?(?:inf|nan|N/A)(?=\s*[,}])')  # old profilers wrote these as numbers
# a valid JSON escape, or a backslash that does not begin one; an escape has at most 5 characters after the backslash
ESCAPE = re.compile(r'(\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))|\\(?=.{5})', re.DOTALL)
LONGEST_WORD = 12  # characters: -Infinity, an escape, the end of a number
DELIMITED = (dict, list, str)  # types whose text shows where the value ends
NO_TRACE = "is JSON, but not a trace: it has no traceEvents"
QUOTE = (
    "; there is an unescaped quote inside a string, as PyTorch writes some names with with_stack=True "
    "(pytorch#113001): record the trace again with with_stack=False, or add the backslash"
)
EXAMPLE = "trace=log/host_1234.pt.trace.json.gz"


def events(path: Path, on_read: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """Every event of a trace: from ``traceEvents`` of an object, or from a plain list.

    Args:
        on_read: called after each chunk with the number of bytes that have been read.

    Raises:
        UserError: there is no such file, it is not a trace, it is incomplete, or it is damaged.
    """
    with _opened(path) as (file, plain):
        text = _Text(path, plain, lambda: on_read(file.tell()))
        match text.peek():
            case "[":
                are_events = yield from text.array()
                if not are_events:
                    raise _refused(path, "is a JSON list, but not of profiler events")
            case "{":
                yield from text.trace()
            case _:
                raise text.broken()
        if text.peek():
            raise text.broken()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes] | gzip.GzipFile]]:
    """The file, and the stream of its decompressed bytes."""
    if path.is_dir():
        inside = sorted([*path.glob("*.json"), *path.glob("*.json.gz")])
        raise _refused(path, "is a folder", f"trace={inside[0]}" if inside else EXAMPLE, error=WrongUsage)
    try:
        with path.open("rb") as file:
            magic = file.read(2)
            if not magic:
                raise _refused(path, "is empty: the profiler writes its file when it stops")
            file.seek(0)
            if magic != GZIP:
                yield file, file
                return
            with gzip.open(file) as plain:
                yield file, plain
    except FileNotFoundError:
        raise _refused(path, "there is no such file", error=WrongUsage) from None
    except EOFError:
        raise _cut(path) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _refused(path, f"is damaged ({reason(error)})") from None
    except OSError as error:
        raise _refused(
            path, f"cannot be read ({with_cause(error, error.strerror) if error.strerror else reason(error)})"
        ) from None


class _Text:
    """The text of a file; only the part that is being read is in memory."""

    def __init__(self, path: Path, plain: IO[bytes] | gzip.GzipFile, on_read: Callable[[], None]) -> None:
        self._path, self._plain, self._on_read = path, plain, on_read
        self._decode = codecs.getincrementaldecoder("utf-8-sig")(errors="replace").decode
        self._text, self._at, self._dropped, self._ended = "", 0, 0, False

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            blank = BLANK.match(self._text, self._at)
            assert blank is not None
            self._at = blank.end()
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def trace(self) -> Iterator[dict[str, Any]]:
        """The events under ``traceEvents`` of an object; its other values are skipped."""
        has_events = False
        self._take("{")
        if self.peek() == "}":
            raise _refused(self._path, NO_TRACE)
        while True:
            key = self._value()
            self._take(":")
            if self.peek() == "[" and key == "traceEvents":
                has_events = True
                yield from self.array()
            else:
                self._value()
            if self._take(",}") == "}":
                break
            self.peek()
        if not has_events:
            raise _refused(self._path, NO_TRACE)

    def array(self) -> Generator[dict[str, Any], None, bool]:
        """The objects of a list; returns whether they are events (True for an empty list)."""
        self._take("[")
        if self.peek() == "]":
            self._at += 1
            return True
        are_events = False
        while True:
            value = self._value()
            if isinstance(value, dict):
                are_events = are_events or "ph" in value
                yield value
            comma = COMMA.match(self._text, self._at)
            if comma is not None and comma.end() < len(self._text):  # the common case: saves a third of the time
                self._at = comma.end()
            elif self._take(",]") == "]":
                return are_events
            else:
                self.peek()

    def broken(self, why: str = "") -> UserError:
        """The error for text that is not JSON at the current position."""
        where, rest = self._dropped + self._at, self._text[self._at : self._at + 30]
        return _refused(self._path, f"is not valid JSON from character {where:,} on: {rest!a}{why}")

    def _take(self, allowed: str) -> str:
        character = self.peek()
        if not character:
            raise _cut(self._path)
        if character not in allowed:
            raise self.broken()
        self._at += 1
        return character

    def _value(self) -> Any:
        """The value at the current position, which must not be white space; reads on until it is complete."""
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._mend(error):
                    continue
                if not self._is_incomplete(error) or len(self._text) - self._at > LONGEST:
                    after_string = self._text[self._at : error.pos].rstrip().endswith('"')
                    self._at = error.pos
                    raise self.broken(QUOTE if after_string and "delimiter" in error.msg else "") from None
                if not self._more():
                    raise _cut(self._path) from None
            except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
                raise self.broken() from None
            else:
                if isinstance(value, DELIMITED) or end < len(self._text) - 8 or not self._more():
                    self._at = end
                    return value  # a number near the end of the text may have more digits to come

    def _mend(self, error: json.JSONDecodeError) -> bool:
        """Replaces bare words that JSON does not have with null, and a backslash that does not begin an escape with two;
        returns whether it replaced anything."""
        before = self._text[self._at :]
        if error.msg.startswith("Invalid \\"):
            rest = ESCAPE.sub(lambda escape: escape[1] or "\\\\", before)
        else:
            rest = BARE.sub(r"\1null", before)
        if rest == before:
            return False
        self._text, self._dropped, self._at = rest, self._dropped + self._at, 0
        return True

    def _is_incomplete(self, error: json.JSONDecodeError) -> bool:
        """Whether the value may only be incomplete: the error is at the end of the text, or in a word that it cuts."""
        rest = self._text[error.pos :].strip()
        if error.msg.startswith("Unterminated"):  # its position is the start of the string
            return True
        return len(rest) <= LONGEST_WORD and not (self._ended and set(rest) & set('"]}'))

    def _more(self) -> bool:
        """Drops the text that is done and reads more, twice as much if one value is long; False at the end."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        data = self._plain.read(max(CHUNK, len(rest)))
        self._ended = not data
        self._text, self._dropped, self._at = rest + self._decode(data, self._ended), self._dropped + self._at, 0
        self._on_read()
        return True


def _refused(path: Path, why: str, example: str = EXAMPLE, *, error: type[UserError] = UserError) -> UserError:
    allowed = f"{why}; allowed: a file written by PyTorch's profiler, .json or .json.gz"
    return refuse("trace", path, allowed, example, error=error)


def _cut(path: Path) -> UserError:
    return _refused(
        path, "is cut off: the program ended before the profiler had written the whole file, or a copy failed"
    )
