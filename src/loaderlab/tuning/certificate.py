"""How sure an answer is, and the sentence that says so. Pure."""

from __future__ import annotations

from loaderlab.tuning.answer import CERTIFIED, NOT_FED, NOT_SEPARABLE, UNCONFIRMED, Confirmed, Excluded
from loaderlab.tuning.candidate import RESIDENT, Candidate
from loaderlab.tuning.confirm import ROUNDS, Confirmation
from loaderlab.tuning.lost import FED, grade
from loaderlab.tuning.lost import NOT_FED as STARVED
from loaderlab.tuning.results import GAIN, Results
from loaderlab.tuning.search import NOTICED_PCT, Search
from loaderlab.tuning.shares import Share
from loaderlab.tuning.titles import titles

TIME_OVER = "the time limit was reached"


def _unfinished(confirmation: Confirmation, why: str) -> str:
    """Why runs of the confirmation are missing."""
    return why or (confirmation.errors[-1] if confirmation.errors else TIME_OVER)


def certificate(search: Search, confirmation: Confirmation, why_unfinished: str) -> tuple[str, str]:
    """The grade of the answer, and the certificate in one sentence without a full stop.

    Args:
        why_unfinished: why the search ended before everything cheaper was tried; empty if it did not.
    """
    why_unfinished = why_unfinished or TIME_OVER * confirmation.searching
    chosen, neighbour = confirmation.chosen, confirmation.neighbour
    results, device = search.results, search.facts.device
    confirmed, limit = confirmation.confirmed, results.limit_pct
    name = titles([chosen, *([] if neighbour is None else [neighbour]), search.facts.current])
    if len(confirmed[chosen].runs if chosen in confirmed else ()) < ROUNDS:
        return (
            UNCONFIRMED,
            f"not confirmed, because {_unfinished(confirmation, why_unfinished)}; {_by_search(results, chosen)}",
        )
    of_chosen = f"with {name[chosen]} the {device} is starved {_share(confirmed[chosen], limit)}"
    state = confirmation.grade(chosen)
    if state != FED and why_unfinished:
        return UNCONFIRMED, f"the search did not end, because {why_unfinished}: of what was tried, {of_chosen}"
    if state == STARVED:
        return (
            NOT_FED,
            f"nothing that was tried feeds the {device}: {of_chosen}, and below {limit:g} % counts as fed",
        )
    if state != FED:
        return NOT_SEPARABLE, f"not separable: {of_chosen}, and this interval contains the limit of {limit:g} %"
    fed = f"{of_chosen}, below {limit:g} %"
    if not search.all_below_tried(chosen):
        return UNCONFIRMED, f"{fed}; cheaper settings were not all tried, because {why_unfinished or TIME_OVER}"
    if untried := [branch.title for branch in search.untried()]:
        were = "was" if len(untried) == 1 else "were"
        return (
            UNCONFIRMED,
            f"{fed}; {' and '.join(untried)} could be cheaper and {were} not tried, because "
            f"{why_unfinished or TIME_OVER}",
        )
    if neighbour is None:
        return CERTIFIED, f"{fed}; {_nothing_cheaper(results, chosen)}"
    below = confirmed.get(neighbour)
    if below is None or len(below.runs) < ROUNDS:
        why = f"because {_unfinished(confirmation, why_unfinished)}"
        return UNCONFIRMED, f"{fed}; the next cheaper settings, {name[neighbour]}, were not confirmed, {why}"
    cheaper = f"with {name[neighbour]}, the next cheaper settings, {_share(below, limit)}"
    if confirmation.grade(neighbour) == STARVED:
        return CERTIFIED, f"{fed}; {cheaper}"
    return NOT_SEPARABLE, f"not separable: {fed}; {cheaper}, which is not shown to be above {limit:g} %"


def missing(results: Results) -> str:
    """What would feed the device if nothing that was tried does: one or more sentences."""
    fastest = results.fastest()
    gap_pct = 0.0 if fastest is None else results.gap_pct(fastest.candidate)
    if fastest is not None and fastest.measured.starved_pct < results.limit_pct and gap_pct >= NOTICED_PCT:
        sentences = [
            f"The loader is fast enough within an epoch, but {gap_pct:.1f} % of the time is lost between epochs."
        ]
    else:
        sentences = _about_cores(results)
    sentences += [
        f"Not tried: {entry.candidate.title}, because {entry.reason}."
        for entry in results.excluded
        if _matters(entry, results)
    ]
    if results.facts.remedy:
        sentences.append(f"{results.facts.remedy}.")
    return " ".join(sentences or ["The measurements do not show what is missing. Less work per sample would help."])


def _about_cores(results: Results) -> list[str]:
    """Whether cores are missing, if it is known."""
    branch, model, cores = results.facts.current.branch, results.model, results.machine.cores
    demand, core_s, busy = model.demand(0), model.core_s_per_sample(branch), model.cores_per_maker(branch)
    if demand is None or core_s is None:
        return []
    whole_s = (model.whole_core_s_per_sample(branch) or 0.0) if results.facts.uses_host_cores else 0.0
    needed = demand * max(core_s, whole_s)
    if needed > 0.9 * cores:
        task = "To load what the step takes" + ", and for the step itself" * (whole_s > core_s)
        return [f"{task}, about {needed:.1f} cores would be needed, and there are {cores}."]
    if busy is not None and busy < 0.9 and not _has_limit(results):
        return [
            f"Cores are not missing ({needed:.1f} of {cores} would be enough): more makers do not make more samples, so they "
            "wait for something that they share, such as a lock or the storage."
        ]
    return []


def _matters(entry: Excluded, results: Results) -> bool:
    """Whether an excluded candidate would be faster than all that were tried, by what is known in the end."""
    predicted = results.model.predict(entry.candidate)
    fastest = max((found.measured.rate for found in results.found), default=0.0)
    return predicted is not None and predicted.rate > GAIN * fastest


def _has_limit(results: Results) -> bool:
    """Whether a limit of the machine ended the search, and not the makers themselves."""
    branch = results.facts.current.branch
    return any(entry.candidate.branch == branch and _matters(entry, results) for entry in results.excluded)


def _by_search(results: Results, candidate: Candidate) -> str:
    found = results.of(candidate)
    if found is None:
        return "nothing was measured"
    tried = found.tried
    state = grade(tried.lost_interval, results.limit_pct)
    meaning = {FED: "fed", STARVED: "not fed"}.get(state, "not separable from the limit")
    device = results.facts.device
    return f"in one trial with {candidate.title} the {device} was starved {tried.lost_pct:.1f} % of the time: {meaning}"


def _nothing_cheaper(results: Results, chosen: Candidate) -> str:
    if chosen.makers == 0 and chosen.branch.backend != RESIDENT:
        return "nothing is cheaper than no workers"
    return f"of what can be tried here, nothing is cheaper{_why_not(results, chosen)}"


def _why_not(results: Results, chosen: Candidate) -> str:
    price = results.price
    failed = [
        f"{tried.candidate.title} died"
        for tried in results.tried
        if tried.error and price(tried.candidate) < price(chosen)
    ]
    return f" ({', '.join(failed)})" if failed else ""


def _share(confirmed: Confirmed, limit: float) -> str:
    return Share(confirmed.lost_pct, confirmed.lost_interval, limit).phrase(len(confirmed.runs))
