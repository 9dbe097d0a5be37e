"""The tables of an answer, also on the terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loaderlab.tuning.answer import Answer
from loaderlab.tuning.candidate import RESIDENT, Branch, Candidate
from loaderlab.tuning.tables import confirmation, excluded, queued, tables, times, trials
from tests.tuning import answers
from tests.tuning.answers import ANSWERS, workers


def test_predicted_and_measured_are_side_by_side() -> None:
    table = trials(answers.certified)
    assert table.rows[1] == [
        "1 worker",
        "64.0 %",
        "64.8 % (63.3 to 66.3)",
        "735",
        "720",
        "a second point of the supply curve",
    ]
    assert len(table.rows) == len(answers.certified.tried)


def test_a_trial_that_died_has_its_error() -> None:
    row = trials(answers.nothing_feeds).rows[-1]
    assert row[1:5] == ["–", "no result", "–", "–"]
    assert row[5] == "waits jitter, so a longer queue may help; the worker was killed: out of memory"


def test_the_confirmation() -> None:
    chosen, cheaper, current = confirmation(answers.certified).rows
    assert chosen == [
        "3 workers",
        "chosen",
        "0.4 % (0.1 to 0.9)",
        "3",
        "55 MiB",
        "2,050",
        "2,031 (1,970 to 2,092)",
        "2.1",
        "3",
        "fed",
    ]
    assert (cheaper[1], cheaper[-1]) == ("cheaper", "not fed")
    assert current[1] == "current, fastest"
    assert confirmation(answers.not_separable).rows[1][-1] == "not shown"
    assert "in one process" in confirmation(answers.in_process).title


def test_a_queue_of_unknown_size_is_given_in_batches() -> None:
    facts = replace(answers.certified.facts, batch_bytes=None)
    assert queued(replace(answers.certified, facts=facts), workers(3)) == "6 batches"
    resident = Candidate(Branch(RESIDENT))
    facts = replace(answers.certified.facts, samples_bytes=300 * 2**20)
    assert queued(replace(answers.certified, facts=facts), resident) == "300 MiB"


def test_exclusions_and_times() -> None:
    assert excluded(answers.certified).rows == [["7 workers", "7 workers need 2,940 MiB, and 2,600 MiB are free"]]
    assert times(answers.certified) == (
        "time: search 61 s, confirmation 59 s, together 120 s, including 22 s of process starts"
    )


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
def test_each_row_has_all_columns(answer: Answer) -> None:
    for table in tables(answer):
        assert all(len(row) == len(table.columns) for row in table.rows)
