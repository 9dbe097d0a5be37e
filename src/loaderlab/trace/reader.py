"""The events of a trace file, one at a time, in memory that does not grow with the file.

One event is decoded by the standard library's C decoder, the text around it by the few lines here. A streaming parser
(ijson on yajl) was no faster and refuses what real traces hold: a bare ``inf`` (pytorch/kineto#105), line breaks inside
a name (pytorch/pytorch#130622), whole numbers beyond 63 bits. Windows paths whose backslashes are not escaped
(pytorch/pytorch#98432) are read as if they were: where JSON knows no such escape, there is one way to read it.
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

from loaderlab.config import UserError, refuse
from loaderlab.system.causes import reason, with_cause

CHUNK = 1 << 20  # bytes read at a time
LONGEST = 1 << 25  # characters of one event, or of one value beside the events
GZIP = b"\x1f\x8b"
DECODER = json.JSONDecoder(strict=False)  # not strict: takes line breaks inside a string
COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
BLANK = re.compile(r"[ \t\r\n]*")
BARE = re.compile(r'("\s*:\s*)-?(?:inf|nan|N/A)(?=\s*[,}])')  # what old profilers wrote for a number
# an escape that JSON knows, or a backslash that begins none; an escape has at most 5 characters behind the backslash
ESCAPE = re.compile(r'(\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))|\\(?=.{5})', re.DOTALL)
LONGEST_WORD = 12  # characters: -Infinity, an escape, the end of a number
WHOLE = (dict, list, str)  # a value of these says itself where it ends
NO_TRACE = "is JSON, but no trace: it has no traceEvents"
QUOTE = (
    "; a quote stands inside a string with no backslash before it, as PyTorch writes some names with with_stack=True "
    "(pytorch#113001): record the trace again with with_stack=False, or put the backslash in"
)
EXAMPLE = "trace=log/host_1234.pt.trace.json.gz"


def events(path: Path, on_read: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """Every event of a trace: of ``traceEvents`` of an object, or of a bare list.

    Args:
        on_read: told the bytes of the file that have been read, a chunk at a time.

    Raises:
        UserError: no such file, no trace, cut off, or damaged.
    """
    with _opened(path) as (file, plain):
        text = _Text(path, plain, lambda: on_read(file.tell()))
        match text.peek():
            case "[":
                found = yield from text.array()
                if not found:
                    raise _refused(path, "is a JSON list, but holds no events of a profiler")
            case "{":
                yield from text.trace()
            case _:
                raise text.broken()
        if text.peek():
            raise text.broken()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes] | gzip.GzipFile]]:
    """The file, and its unpacked bytes."""
    if path.is_dir():
        inside = sorted([*path.glob("*.json"), *path.glob("*.json.gz")])
        raise _refused(path, "is a folder", f"trace={inside[0]}" if inside else EXAMPLE)
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
        raise _refused(path, "there is no such file") from None
    except EOFError:
        raise _cut(path) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _refused(path, f"is damaged ({reason(error)})") from None
    except OSError as error:
        raise _refused(
            path, f"cannot be read ({with_cause(error, error.strerror) if error.strerror else reason(error)})"
        ) from None


class _Text:
    """The text of a file, of which only the part at hand is kept."""

    def __init__(self, path: Path, plain: IO[bytes] | gzip.GzipFile, on_read: Callable[[], None]) -> None:
        self._path, self._plain, self._on_read = path, plain, on_read
        self._decode = codecs.getincrementaldecoder("utf-8-sig")(errors="replace").decode
        self._text, self._at, self._dropped, self._ended = "", 0, 0, False

    def peek(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            blank = BLANK.match(self._text, self._at)
            assert blank is not None
            self._at = blank.end()
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def trace(self) -> Iterator[dict[str, Any]]:
        """The events of an object that holds them under ``traceEvents``; what stands beside them is passed over."""
        found = False
        self._take("{")
        if self.peek() == "}":
            raise _refused(self._path, NO_TRACE)
        while True:
            key = self._value()
            self._take(":")
            if self.peek() == "[" and key == "traceEvents":
                found = True
                yield from self.array()
            else:
                self._value()
            if self._take(",}") == "}":
                break
            self.peek()
        if not found:
            raise _refused(self._path, NO_TRACE)

    def array(self) -> Generator[dict[str, Any], None, bool]:
        """The objects of a list; returns whether they are events, as those of an empty list are."""
        self._take("[")
        if self.peek() == "]":
            self._at += 1
            return True
        found = False
        while True:
            value = self._value()
            if isinstance(value, dict):
                found = found or "ph" in value
                yield value
            comma = COMMA.match(self._text, self._at)
            if comma is not None and comma.end() < len(self._text):  # nearly always: a third of the time saved
                self._at = comma.end()
            elif self._take(",]") == "]":
                return found
            else:
                self.peek()

    def broken(self, why: str = "") -> UserError:
        where, rest = self._dropped + self._at, self._text[self._at : self._at + 30]
        return _refused(self._path, f"is no JSON from character {where:,} on: {rest!a}{why}")

    def _take(self, allowed: str) -> str:
        found = self.peek()
        if not found:
            raise _cut(self._path)
        if found not in allowed:
            raise self.broken()
        self._at += 1
        return found

    def _value(self) -> Any:
        """The value that begins here, not at a blank; reads on until it is whole."""
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._mend(error):
                    continue
                if not self._goes_on(error) or len(self._text) - self._at > LONGEST:
                    after_string = self._text[self._at : error.pos].rstrip().endswith('"')
                    self._at = error.pos
                    raise self.broken(QUOTE if after_string and "delimiter" in error.msg else "") from None
                if not self._more():
                    raise _cut(self._path) from None
            except (RecursionError, ValueError):  # too deep, or a number of thousands of digits
                raise self.broken() from None
            else:
                if isinstance(value, WHOLE) or end < len(self._text) - 8 or not self._more():
                    self._at = end
                    return value  # a number near the edge may go on behind it

    def _mend(self, error: json.JSONDecodeError) -> bool:
        """Puts null for the bare words that no JSON has, and two backslashes for one that begins no escape; whether there
        were any."""
        before = self._text[self._at :]
        if error.msg.startswith("Invalid \\"):
            rest = ESCAPE.sub(lambda escape: escape[1] or "\\\\", before)
        else:
            rest = BARE.sub(r"\1null", before)
        if rest == before:
            return False
        self._text, self._dropped, self._at = rest, self._dropped + self._at, 0
        return True

    def _goes_on(self, error: json.JSONDecodeError) -> bool:
        """Whether the value may only lack its end: sound as far as the text reaches, but for a word or number in two."""
        rest = self._text[error.pos :].strip()
        if error.msg.startswith("Unterminated"):  # counted from where the string begins
            return True
        return len(rest) <= LONGEST_WORD and not (self._ended and set(rest) & set('"]}'))

    def _more(self) -> bool:
        """Drops what is done with and reads on, twice as much where one value is long; False at the end."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        data = self._plain.read(max(CHUNK, len(rest)))
        self._ended = not data
        self._text, self._dropped, self._at = rest + self._decode(data, self._ended), self._dropped + self._at, 0
        self._on_read()
        return True


def _refused(path: Path, why: str, example: str = EXAMPLE) -> UserError:
    return refuse("trace", path, f"{why}; allowed is a file of PyTorch's profiler, .json or .json.gz", example)


def _cut(path: Path) -> UserError:
    return _refused(path, "is cut off: the program ended before the profiler had written all of it, or the copy did")
