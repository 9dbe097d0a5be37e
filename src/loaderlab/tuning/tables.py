"""The tables of an answer: the confirmation, what was not tried and all trials. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from loaderlab.tuning.answer import Answer, Confirmed, Tried
from loaderlab.tuning.candidate import Candidate, cost
from loaderlab.tuning.lost import OPEN
from loaderlab.tuning.shares import Share, confirmed_share
from loaderlab.tuning.titles import titles_of
from loaderlab.tuning.trial import Interval

MIB = 2**20
NONE = "–"  # not measured, or does not apply


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        explains: whether the last column is a sentence.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    explains: bool = False


def tables(answer: Answer) -> list[Table]:
    """All tables that have rows, in reading order."""
    every = (confirmation(answer), excluded(answer), trials(answer))
    return [table for table in every if table.rows]


def trials(answer: Answer) -> Table:
    """The trials of the search, in order, with what was predicted."""
    columns = ["settings", "predicted starved", "starved", "predicted samples/s", "samples/s", "why it was tried"]
    title = f"search{_on(answer)}: one run each (95 % CI within it)"
    return Table(title, columns, [_trial(answer, tried) for tried in answer.tried], True)


def confirmation(answer: Answer) -> Table:
    """The confirmation: what the answer is based on."""
    columns = ["settings", "role", "starved", "makers", "queued ahead", "predicted samples/s", "samples/s"]
    columns += ["CPU ms/sample", "n", "device"]
    fresh = "in one process" if answer.facts.in_process else "in fresh processes"
    rows = [_confirmed(answer, confirmed) for confirmed in answer.confirmed.values() if confirmed.runs]
    return Table(f"confirmation{_on(answer)}: interleaved rounds {fresh} (95 % CI over runs)", columns, rows)


def excluded(answer: Answer) -> Table:
    """The candidates that were not tried, with the reason."""
    name = titles_of(answer)
    rows = [[name[entry.candidate], entry.reason] for entry in answer.excluded]
    return Table("not tried", ["settings", "why"], rows, True)


def _on(answer: Answer) -> str:
    """Marks the results of an emulated accelerator."""
    return f" on an {answer.facts.device}, not a real device" if answer.facts.emulated else ""


def times(answer: Answer) -> str:
    """How long the tuner took, in one line."""
    parts = f"search {_seconds(answer.search_s)}, confirmation {_seconds(answer.confirm_s)}"
    total = _seconds(answer.search_s + answer.confirm_s)
    return f"time: {parts}, together {total}, including {_seconds(answer.starts_s)} of process starts"


def roles(answer: Answer, candidate: Candidate) -> str:
    """``chosen, current``: why a candidate was confirmed."""
    named = {
        "chosen": answer.chosen,
        "cheaper": answer.neighbour,
        "current": answer.facts.current,
        "fastest": answer.fastest,
    }
    return ", ".join(role for role, which in named.items() if which == candidate)


def queued(answer: Answer, candidate: Candidate) -> str:
    """What is queued ahead of the step: MiB, or batches if their size is not known."""
    facts = answer.facts
    needed = facts.samples_bytes if candidate.branch.backend == "resident" else facts.batch_bytes
    if needed is None:
        return f"{candidate.batches_ahead} batch{'es' * (candidate.batches_ahead != 1)}"
    _, num_bytes = cost(candidate, facts.batch_bytes or 0, facts.samples_bytes or 0)
    mib = num_bytes / MIB
    return f"{mib:,.0f} MiB" if mib >= 10 or mib == 0 else f"{mib:.2g} MiB"


def _trial(answer: Answer, tried: Tried) -> list[str]:
    measured, predicted = tried.measured, tried.predicted
    share = None
    if measured is not None:
        share = Share(tried.lost_pct, tried.lost_interval, answer.max_starved_pct)
    return [
        titles_of(answer)[tried.candidate],
        f"{predicted.starved_pct:.1f} %" if predicted is not None else NONE,
        share.text if share is not None else "no result",
        f"{predicted.rate:,.0f}" if predicted is not None else NONE,
        f"{measured.rate:,.0f}" if measured is not None else NONE,
        f"{tried.reason}; {tried.error}" if tried.error else tried.reason,
    ]


def _confirmed(answer: Answer, confirmed: Confirmed) -> list[str]:
    candidate = confirmed.candidate
    share = confirmed_share(answer, candidate)
    assert share is not None, "a row needs runs"
    cpu = [run.cpu_s_per_sample for run in confirmed.runs if run.cpu_s_per_sample is not None]
    return [
        titles_of(answer)[candidate],
        roles(answer, candidate),
        share.text,
        str(candidate.makers),
        queued(answer, candidate),
        _predicted_rate(answer, candidate),
        f"{confirmed.rate:,.0f} {_rates(confirmed.rate_interval)}".rstrip(),
        f"{1e3 * fmean(cpu):.3g}" if cpu else NONE,
        str(len(confirmed.runs)),
        "not shown" if share.state == OPEN else share.state,
    ]


def _predicted_rate(answer: Answer, candidate: Candidate) -> str:
    """The prediction before the first trial of a candidate."""
    predictions = [tried.predicted for tried in answer.tried if tried.candidate == candidate]
    first = next((predicted for predicted in predictions if predicted is not None), None)
    return f"{first.rate:,.0f}" if first is not None else NONE


def _rates(interval: Interval | None) -> str:
    return f"({max(0.0, interval[0]):,.0f} to {interval[1]:,.0f})" if interval is not None else ""


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"
