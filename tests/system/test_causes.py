"""An exception in one line, which always contains the last line of the innermost cause."""

from __future__ import annotations

import traceback

import hypothesis.strategies as st
import pytest
from hypothesis import given

from loaderlab.config import UserError
from loaderlab.system.causes import TRACEBACK, described, reason
from loaderlab.system.processes import error_line


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text\nfor this one")


def raised(*errors: BaseException, explicit: bool = True) -> BaseException:
    """The last error, raised from the previous one, and so on."""
    try:
        if len(errors) > 1:
            try:
                raise raised(*errors[:-1], explicit=explicit)
            except BaseException as cause:
                if explicit:
                    raise errors[-1] from cause
                raise errors[-1]  # noqa: B904  # while the previous error is handled
        raise errors[0]
    except BaseException as error:
        return error


def sent() -> RuntimeError:
    """An error in the form in which a DataLoader worker sends it."""
    frames = "".join(traceback.format_exception(raised(OSError("disk on fire"))))
    return RuntimeError(f"Caught OSError in DataLoader worker process 0.\nOriginal {frames}")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("too small"), "ValueError: too small"),
        (ValueError(), "ValueError"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError("first\n\n  second\nthird\n"), "ValueError: first … third"),
        (sent(), "OSError: disk on fire"),
        (Unprintable(), "Unprintable: <its text cannot be shown: ValueError: no text … for this one>"),
        (
            raised(OSError("disk on fire"), ValueError("no batch.")),
            "ValueError: no batch; cause: OSError: disk on fire",
        ),
        (raised(OSError("disk on fire"), ValueError("no batch: disk on fire")), "ValueError: no batch: disk on fire"),
        (raised(OSError("1"), ValueError("2"), TypeError("3")), "TypeError: 3; cause: OSError: 1"),
        (raised(OSError("disk on fire"), ValueError()), "OSError: disk on fire"),
        (raised(StopIteration(), ValueError("no batch")), "ValueError: no batch"),
        (raised(OSError("1"), ValueError("2"), explicit=False), "ValueError: 2; cause: OSError: 1"),
    ],
)
def test_one_line(error: BaseException, line: str) -> None:
    assert described(error) == line
    assert error_line(error) == line


def suppressing() -> None:
    try:
        raise OSError("1")
    except OSError:
        raise ValueError("2") from None


def test_a_cause_that_was_suppressed_is_left_out() -> None:
    with pytest.raises(ValueError, match="2") as error:
        suppressing()
    assert described(error.value) == "ValueError: 2"


def test_circular_causes_end() -> None:
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    assert described(first) == "ValueError: 1; cause: ValueError: 2"


def test_a_reason_leaves_out_the_type_of_the_error_itself() -> None:
    assert reason(OSError("disk on fire")) == "disk on fire"
    assert reason(raised(OSError("1"), ValueError("2"))) == "2; cause: OSError: 1"
    assert reason(OSError()) == "OSError"


def test_a_message_for_the_user_is_unchanged() -> None:
    assert error_line(raised(OSError("1"), UserError("a=1: no. Type: a=2"))) == "a=1: no. Type: a=2"


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4), st.booleans())
def test_property_one_line_contains_the_last_line_of_the_innermost_cause(texts: list[str], explicit: bool) -> None:
    line = described(raised(*(ValueError(text) for text in texts), explicit=explicit))
    lines = [[part.strip() for part in text.splitlines() if part.strip()] for text in texts]
    innermost = next((parts[-1] for parts in lines if parts), "")
    assert len(line.splitlines()) == 1
    assert innermost in line


def test_the_hints_of_cuda_do_not_hide_its_error() -> None:
    text = "CUDA error: an illegal memory access was encountered\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
    assert reason(RuntimeError(text)) == "CUDA error: an illegal memory access was encountered"
    sent = f'Caught RuntimeError in pin memory thread.\n{TRACEBACK}:\n  File "pin_memory.py"\nRuntimeError: {text}'
    assert reason(RuntimeError(sent)) == "RuntimeError: CUDA error: an illegal memory access was encountered"
