"""The answer of the tuner in sentences: the last lines of the command, and the caveats. Pure."""

from __future__ import annotations

from collections.abc import Callable

from loaderlab.tuning.answer import Answer
from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.lost import OPEN
from loaderlab.tuning.shares import confirmed_share
from loaderlab.tuning.titles import titles_of
from loaderlab.tuning.typed import override_of, snippet

Text = Callable[[Candidate], str]


def last_lines(answer: Answer, override: Text = override_of, code: Text = snippet) -> list[str]:
    """The last lines of the command: what to type, the certificate, and Python that builds the loader.

    Args:
        override: the settings of a candidate as one line to type.
        code: Python that builds a loader with these settings; the line is left out if the text is empty.
    """
    sentence = f"certificate: {qualified(answer)}"
    if answer.chosen is None:
        return ["chosen: nothing", sentence]
    lines = [f"chosen: {override(answer.chosen)}", sentence]
    return [*lines, python] if (python := code(answer.chosen)) else lines


def qualified(answer: Answer) -> str:
    """The certificate, with what limits it in the same sentence."""
    clauses = [answer.certificate]
    if answer.interrupted and "interrupted" not in answer.certificate:
        clauses.append("the search was interrupted")
    if answer.facts.no_gaps:
        clauses.append(f"the time between epochs is not included, because {answer.facts.no_gaps}")
    elif answer.facts.epoch_steps is not None and (without := _runs_without_gap(answer)):
        clauses.append(f"the time between epochs is not included in {without}, because no epoch ended in them")
    if answer.facts.in_process:
        verb = "confirmed" if answer.confirmed else "measured"
        reason = " ".join(answer.facts.in_process.split()).rstrip(".")
        clauses.append(f"{verb} in one process, because {reason}")
    return "; ".join(clauses)


def _runs_without_gap(answer: Answer) -> str:
    """``2 of 6 runs``: how many of the certificate's runs contain no end of an epoch; empty if all do."""
    named = [one for candidate, one in answer.confirmed.items() if candidate in (answer.chosen, answer.neighbour)]
    gaps = [run.gap_ms for one in named for run in one.runs]
    return f"{gaps.count(None)} of {len(gaps)} runs" if None in gaps else ""


def caveats(answer: Answer) -> list[str]:
    """What limits the answer, one sentence each."""
    lines = []
    if answer.interrupted:
        lines.append("The tuner was interrupted: settings that were not tried yet are not part of the answer.")
    if answer.facts.in_process:
        lines.append(f"All trials ran in one process, one after the other: {_ended(answer.facts.in_process)}")
    name = titles_of(answer)
    for candidate in answer.confirmed:
        share = confirmed_share(answer, candidate)
        if share is not None and share.state == OPEN and candidate not in (answer.chosen, answer.neighbour):
            verb = "feeds" if candidate.makers == 1 else "feed"
            lines.append(f"It is not shown whether {name[candidate]} {verb} the device.")
    if answer.chosen is not None and answer.chosen == answer.facts.current:
        lines.append("The chosen settings are the current ones.")
    return [*lines, *(_ended(note[:1].upper() + note[1:]) for note in (*answer.notes, *answer.facts.notes))]


def _ended(sentence: str) -> str:
    """With a full stop."""
    return f"{sentence.rstrip('.')}."
