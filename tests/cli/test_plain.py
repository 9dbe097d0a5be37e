"""Settings of a command without Hydra: from ``name=value`` to a dataclass."""

from __future__ import annotations

import contextlib
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaderlab.cli.plain import help_text, read
from loaderlab.config import TraceConfig, WrongUsage
from loaderlab.trace.waits import _typed


def test_values_have_their_types() -> None:
    config = read("trace", TraceConfig, ["trace=a.json", "device=1", "pid=7", "format=json", "wait=a=b"])
    assert config == TraceConfig(trace="a.json", device=1, pid="7", format="json", wait="a=b")


def test_the_last_value_of_a_setting_is_used() -> None:
    assert read("trace", TraceConfig, ["trace=a", "trace=b"]).trace == "b"


@pytest.mark.parametrize("text", ["'wait=\"a=b (c)\"'", "wait=\"'a=b (c)'\"", "'wait=a=b (c)'"])
def test_the_quotes_that_hydra_needs_are_accepted(text: str) -> None:
    (argument,) = shlex.split(text)
    assert read("trace", TraceConfig, ["trace=a", argument]).wait == "a=b (c)"


@given(st.text(min_size=1).filter(lambda text: text.strip() and text[0] not in "'\"" and "\0" not in text))
def test_a_suggested_range_can_be_typed_property(name: str) -> None:
    (argument,) = shlex.split(_typed(name))
    assert read("trace", TraceConfig, ["trace=a", argument]).wait == name


NAMES = st.sampled_from(["trace", "wait", "device", "pid", "format", "+trace", "waits", "trace.x", "-m", ""])


@given(st.lists(st.tuples(NAMES, st.sampled_from(["=", ""]), st.text(max_size=6)).map("".join), max_size=4))
def test_any_argument_is_read_or_rejected_property(arguments: list[str]) -> None:
    with contextlib.suppress(WrongUsage):
        config = read("trace", TraceConfig, ["trace=a", *arguments])
        assert all(isinstance(text, str) for text in (config.trace, config.wait, config.pid))
        assert config.device == "auto" or config.device >= 0


def test_help_has_a_line_for_each_setting() -> None:
    page = help_text("trace", TraceConfig)
    for text in ("trace=???", "format=text", "[text|json]", "wait=auto", "device=auto", "pid=auto"):
        assert text in page
