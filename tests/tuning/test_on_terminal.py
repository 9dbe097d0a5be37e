"""An answer on the terminal."""

from __future__ import annotations

import pytest

from loaderlab.system.terminal import quiet_terminal
from loaderlab.tuning.answer import Answer
from loaderlab.tuning.on_terminal import show
from loaderlab.tuning.tables import tables, times
from loaderlab.tuning.words import caveats, last_lines
from tests.tuning import answers
from tests.tuning.answers import ANSWERS


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
def test_an_answer_ends_with_its_last_lines(answer: Answer) -> None:
    terminal = quiet_terminal()
    show(answer, terminal)
    titles = [table.title for table in reversed(tables(answer))]
    notes = [f"note: {sentence}" for sentence in caveats(answer)]
    missing = [f"missing: {answer.missing}"] if answer.missing else []
    first_lines = [text.partition("\n")[0].strip() for text in terminal.said]
    assert first_lines == [*titles, times(answer), *notes, *missing, *last_lines(answer)]


def test_the_texts_to_type_can_be_replaced() -> None:
    terminal = quiet_terminal()
    show(answers.certified, terminal, lambda candidate: f"workers={candidate.makers}", lambda _: "")
    assert terminal.said[-2:] == ["chosen: workers=3", f"certificate: {answers.certified.certificate}"]
