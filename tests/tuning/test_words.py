"""The sentences of an answer: what they say, and that they claim nothing beyond the intervals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loaderlab.tuning.answer import Answer
from loaderlab.tuning.shares import Share
from loaderlab.tuning.titles import titles
from loaderlab.tuning.words import caveats, last_lines, qualified
from tests.tuning import answers
from tests.tuning.answers import ANSWERS, by_candidate, confirmed, workers

EACH = pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))


def test_the_last_lines_of_a_certified_answer() -> None:
    assert last_lines(answers.certified) == [
        "chosen: loader.num_workers=3 loader.prefetch_factor=2 loader.pin_memory=true loader.persistent_workers=true",
        f"certificate: {answers.certified.certificate}",
        "DataLoader(dataset, num_workers=3, prefetch_factor=2, pin_memory=True, persistent_workers=True)",
    ]


@EACH
def test_each_line_is_one_line(answer: Answer) -> None:
    lines = last_lines(answer)
    assert [line.partition(":")[0] for line in lines[:2]] == ["chosen", "certificate"]
    assert not any("\n" in line or "None" in line for line in lines)


def test_a_loader_that_is_no_data_loader_has_no_snippet() -> None:
    assert [line.split(" ")[1] for line in last_lines(answers.already_fed)] == ["loader=spdl", "with"]


def test_a_value_is_not_rounded_to_the_limit() -> None:
    assert Share(2.4, (0.6, 4.97), 5.0).text == "2.4 % (0.6 to 4.97)"
    assert Share(5.0, (4.9, 5.1), 5.0).text == "5.0 % (4.9 to 5.1)"
    assert Share(0.2, (-0.3, 0.7), 5.0).brackets == "(0.0 to 0.7)"


def test_an_interrupted_search_says_so() -> None:
    assert qualified(answers.interrupted) == answers.interrupted.certificate
    assert caveats(answers.interrupted)[0].startswith("The tuner was interrupted")
    facts = replace(answers.certified.facts, no_gaps="the loader has no length")
    clause = "; the time between epochs is not included, because the loader has no length"
    assert qualified(replace(answers.certified, facts=facts)) == answers.certified.certificate + clause
    assert qualified(replace(answers.certified, interrupted=True)).endswith("; the search was interrupted")
    assert "interrupted" not in qualified(answers.certified)


def test_runs_without_the_end_of_an_epoch_are_counted() -> None:
    entry = answers.certified.confirmed[workers(3)]
    runs = [replace(entry.runs[0], gap_ms=None), *entry.runs[1:]]
    answer = replace(
        answers.certified, confirmed={**answers.certified.confirmed, workers(3): replace(entry, runs=runs)}
    )
    clause = "; the time between epochs is not included in 1 of 6 runs, because no epoch ended in them"
    assert qualified(answer) == answers.certified.certificate + clause


def test_an_answer_of_one_process_says_so() -> None:
    reason = "because the step is a closure over a model on cuda:0, which cannot be sent to another process"
    assert qualified(answers.in_process).endswith(f"; confirmed in one process, {reason}")
    assert qualified(replace(answers.in_process, confirmed={})).endswith(f"; measured in one process, {reason}")
    assert "a closure over a model" in caveats(answers.in_process)[0]
    assert "one process" not in qualified(answers.certified)


def test_the_current_settings_are_named_as_such() -> None:
    assert caveats(answers.no_workers) == ["The chosen settings are the current ones."]
    assert caveats(answers.certified) == []


def test_notes_are_sentences() -> None:
    answer = replace(answers.certified, notes=["the time between epochs matters: workers are kept"])
    assert caveats(answer) == ["The time between epochs matters: workers are kept."]


def test_what_an_engine_says_about_the_request_is_a_caveat() -> None:
    noted = replace(answers.certified.facts, notes=["the entry decode of tune.also has no effect here"])
    answer = replace(answers.certified, facts=noted)
    assert caveats(answer) == ["The entry decode of tune.also has no effect here."]


def test_without_any_result_nothing_is_chosen() -> None:
    first, second = last_lines(answers.nothing_ran)
    assert first == "chosen: nothing"
    assert second.startswith("certificate: not confirmed, ")


def test_an_open_interval_of_other_settings_is_a_caveat() -> None:
    runs = by_candidate(*answers.certified.confirmed.values(), confirmed(workers(4), 2038, 4.0, (2.0, 6.0)))
    assert caveats(replace(answers.certified, confirmed=runs)) == ["It is not shown whether 4 workers feed the device."]


def test_candidates_with_the_same_title_get_what_they_differ_in() -> None:
    pinned, plain = workers(2), workers(2, pinned=False)
    assert titles([pinned, plain, workers(1)]) == {
        pinned: "2 workers, pinned memory",
        plain: "2 workers, no pinned memory",
        workers(1): "1 worker",
    }
