"""Titles of candidates that differ from each other, for sentences, tables and the picture. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from loaderlab.tuning.answer import Answer
from loaderlab.tuning.candidate import Candidate


def titles(candidates: Iterable[Candidate]) -> dict[Candidate, str]:
    """The title of each candidate. Candidates that would have the same title get what they differ in: ``2 workers, pinned
    memory``."""
    distinct = list(dict.fromkeys(candidates))
    shared = Counter(candidate.title for candidate in distinct)
    return {
        candidate: candidate.title
        if shared[candidate.title] == 1
        else ", ".join([candidate.title, *_differences(candidate, distinct)])
        for candidate in distinct
    }


def titles_of(answer: Answer) -> dict[Candidate, str]:
    """The titles of all candidates of an answer."""
    named = [answer.chosen, answer.neighbour, answer.fastest, answer.facts.current]
    return titles(
        [
            *(candidate for candidate in named if candidate is not None),
            *answer.confirmed,
            *(tried.candidate for tried in answer.tried),
            *(excluded.candidate for excluded in answer.excluded),
        ]
    )


def _differences(candidate: Candidate, all_candidates: list[Candidate]) -> list[str]:
    """The values in which a candidate differs from those with the same title."""
    namesakes = [other for other in all_candidates if other.title == candidate.title]
    texts = {
        "prefetch": f"prefetch {candidate.prefetch or 'automatic'}",
        "pin_memory": _switch(candidate.pin_memory, "pinned memory"),
        "side_stream": _switch(candidate.side_stream, "side stream"),
        "persistent": _switch(candidate.persistent, "persistent workers"),
        "start_method": f"start method {candidate.start_method or 'automatic'}",
    }
    return [text for name, text in texts.items() if len({getattr(other, name) for other in namesakes}) > 1]


def _switch(value: bool | None, name: str) -> str:
    return f"{name} automatic" if value is None else name if value else f"no {name}"
