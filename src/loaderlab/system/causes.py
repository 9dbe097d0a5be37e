"""Describes an exception in one line, which always contains the last line of its innermost cause: users can act on that."""

from __future__ import annotations

from collections.abc import Iterator

TRACEBACK = "Traceback (most recent call last)"  # in the text of an error from another process

# lines that torch adds to every error of CUDA; the last one would hide the error
CUDA_HINTS = (
    "CUDA kernel errors might be asynchronously reported",
    "For debugging consider passing CUDA_LAUNCH_BLOCKING",
    "Compile with `TORCH_USE_CUDA_DSA`",
    "Device-side assertions were explicitly omitted",
    "Search for `cuda",
)


def described(error: BaseException) -> str:
    """The type and the text of an error in one line, followed by the innermost cause if its text is not yet included."""
    return with_cause(error, _typed(error))


def reason(error: BaseException) -> str:
    """`described` without the type of the error itself, for use inside a sentence."""
    return with_cause(error, _text(error) or type(error).__name__)


def with_cause(error: BaseException, line: str) -> str:
    """A line about an error, followed by the innermost cause unless the line contains it."""
    texts = [(cause, text) for cause in causes(error) if (text := _text(cause))]
    if not texts or texts[-1][1] in line:
        return line
    cause = _typed(texts[-1][0])
    return f"{line.rstrip('. ')}; cause: {cause}" if _text(error) else cause


def causes(error: BaseException) -> Iterator[BaseException]:
    """The errors that an error was raised from, or during the handling of which it was raised; the innermost last."""
    seen = {id(error)}
    current: BaseException | None = error
    while current is not None:
        cause = current.__cause__
        if cause is None and not current.__suppress_context__:
            cause = current.__context__
        if cause is None or id(cause) in seen:
            return
        seen.add(id(cause))
        yield cause
        current = cause


def _typed(error: BaseException) -> str:
    text = _text(error)
    if TRACEBACK in safe_text(error):  # its last line names the original type
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text(error: BaseException) -> str:
    """An error's text in one line: the first and the last line, or only the last line of a traceback."""
    raw = safe_text(error)
    lines = [line.strip() for line in raw.splitlines() if line.strip() and not line.startswith(CUDA_HINTS)]
    if not lines:
        return ""
    if TRACEBACK in raw or len(lines) == 1:
        return lines[-1]
    return f"{lines[0]} … {lines[-1]}"


def safe_text(error: BaseException) -> str:
    """``str(error)``, or a note if that raises."""
    try:
        return str(error)
    except Exception as failure:
        return f"<its text cannot be shown: {_typed(failure)}>"
