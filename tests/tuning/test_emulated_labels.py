"""Results of an emulated accelerator say so wherever they are shown."""

from __future__ import annotations

from dataclasses import replace

from loaderlab.tuning.answer import Answer
from loaderlab.tuning.chart import figure
from loaderlab.tuning.page import html
from loaderlab.tuning.tables import tables
from loaderlab.tuning.trial import Facts
from tests.tuning.answers import ANSWERS
from tests.tuning.simulated import NATIVE_ONLY, Simulated, linear
from tests.tuning.test_tuner import Tuned


class Emulated(Simulated):
    """A simulated machine whose device is emulated."""

    def facts(self) -> Facts:
        return replace(super().facts(), emulated="emulated custom")


def emulated_answer() -> Answer:
    return Tuned(Emulated({NATIVE_ONLY: linear(600)}, lambda _: 1000.0)).answer()


def test_the_certificate() -> None:
    assert "with 2 workers the emulated custom accelerator is starved" in emulated_answer().certificate


def test_tables_and_page() -> None:
    answer = emulated_answer()
    titles = [table.title for table in tables(answer)]
    assert "confirmation on an emulated custom accelerator, not a real device: interleaved rounds" in titles[0]
    assert "search on an emulated custom accelerator, not a real device: one run each" in titles[-1]
    assert "<h1>emulated tune digits</h1>" in html(answer, "tune digits")


def test_the_picture() -> None:
    rates, _ = figure(emulated_answer()).axes
    assert rates.get_title("left") == "emulated custom accelerator, not a real device"


def test_a_real_device_has_no_mark() -> None:
    for answer in ANSWERS.values():
        assert "emulated" not in html(answer, "tune digits")
