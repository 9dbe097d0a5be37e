"""How a job of several ranks ended: which rank failed first, and why, is named once, and the run in MLflow says the same."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from loaderlab.config import TrainConfig, UserError, store_root
from loaderlab.runs.job import RunResult
from loaderlab.runs.node_board import NodeBoard, Note
from loaderlab.runs.rank_process import GOOD, RankEnd, RankInfo, read_ends, read_infos
from loaderlab.system.processes import USUAL_CAUSES, error_line, signal_name
from loaderlab.system.ranks import node_name
from loaderlab.system.terminal import Terminal

OWN_SIGNALS = (-signal.SIGTERM,)  # the agent ends the other ranks with it
RECORDING_S = 30.0  # for rank 0 on another node to complete the record


@dataclass(frozen=True)
class Ended:
    """How this node's ranks ended, as its agent saw it.

    Attributes:
        exit_codes: of the ranks whose processes failed: negative numbers are signals.
        interrupt: of this process.
    """

    exit_codes: Mapping[int, int] = field(default_factory=dict)
    interrupt: KeyboardInterrupt | None = None


def conclude(config: TrainConfig, ended: Ended, folder: Path, board: NodeBoard | None, terminal: Terminal) -> RunResult:
    """The result of the job. Corrects the run in MLflow if its record does not have the cause yet.

    Raises:
        KeyboardInterrupt: this process was interrupted.
    """
    infos, ends = read_infos(folder), read_ends(folder)
    result = next((end.result for end in ends if end.result is not None and end.rank == 0), None)
    finished = infos and len(ends) == len(infos) and all(end.status in GOOD for end in ends)
    if finished and not ended.exit_codes and ended.interrupt is None:
        return result or RunResult("", "FINISHED")
    run_id = next((info.run_id for info in infos if info.run_id), "")
    if ended.interrupt is not None:
        _correct(config, run_id, "KILLED", error_line(ended.interrupt), infos)
        raise ended.interrupt
    note = cause(ends, ended.exit_codes, infos)
    if board is not None:
        was_silent = bool(board.silent)  # then this node's ranks were ended because of that
        if note.secondary and not was_silent:
            board.post(note)
            note = min([*board.notes(), note], key=lambda each: (each.secondary, each.at))
        if was_silent or (note.secondary and board.silent):
            note = Note(f"{board.silent} stopped answering", False, time.time())
        board.post(note)
    status = "KILLED" if ends and all(end.status == "KILLED" for end in ends) and not ended.exit_codes else "FAILED"
    if board is not None and board.silent:
        status = "FAILED"
    _correct(config, run_id, status, note.text, infos)
    if board is not None:
        board.wait_for_others()
    wrong_usage = bool(ends) and all(end.wrong_usage for end in ends)
    return RunResult(run_id, status, error=note.text, wrong_usage=wrong_usage)


def cause(ends: Sequence[RankEnd], exit_codes: Mapping[int, int], infos: Sequence[RankInfo]) -> Note:
    """The first failure on this node that no other failure has caused; if there is none, the first one."""
    nodes = {info.rank: info.node for info in infos}
    notes = [
        Note(_named(end.rank, nodes, end.error, shared=_same(ends, end)), end.secondary, end.at)
        for end in ends
        if end.status not in GOOD
    ]
    reported = {end.rank for end in ends}
    for rank, code in exit_codes.items():
        if rank not in reported:
            notes.append(Note(_named(rank, nodes, _how(code)), code in OWN_SIGNALS, 0.0))
    if not notes:
        return Note(f"node {node_name()}: its ranks ended without a result", True, time.time())
    return min(notes, key=lambda note: (note.secondary, note.at))


def _same(ends: Sequence[RankEnd], end: RankEnd) -> bool:
    """Whether all ranks report the same error, which is then not the error of one of them."""
    return len(ends) > 1 and all(other.error == end.error for other in ends)


def _named(rank: int, nodes: Mapping[int, str], text: str, *, shared: bool = False) -> str:
    return text if shared else f"rank {rank} (node {nodes.get(rank, node_name())}): {text}"


def _how(code: int) -> str:
    """How a process ended that left no report."""
    if code >= 0:
        return f"its process ended with exit code {code} and no result"
    name = signal_name(-code)
    usual = f" (usual cause: {USUAL_CAUSES[name]})" if name in USUAL_CAUSES else ""
    return f"its process was ended by {name}{usual}"


def _correct(config: TrainConfig, run_id: str, status: str, error: str, infos: Sequence[RankInfo]) -> None:
    """Gives the run its true status and its cause. If rank 0 could not write the record, adds the steps that the ranks have written."""
    if not run_id:
        return
    from loaderlab.runs.rank_rows import KnownResults, known_results
    from loaderlab.tracking import open_store
    from loaderlab.tracking.store import PROCESS_KILLED

    with suppress(UserError):
        store = open_store(config.tracking, store_root(), create=False)
        record = store.run(run_id)
        has_first = any(info.rank == 0 for info in infos)
        until = time.monotonic() + (0.0 if has_first else RECORDING_S)
        while record is not None and record.status == "RUNNING" and time.monotonic() < until:
            time.sleep(1.0)
            record = store.run(run_id)
        if record is None or record.status == "FINISHED":
            return
        is_open = record.status == "RUNNING" or record.tags.get("error") == PROCESS_KILLED
        if not has_first and not is_open:  # rank 0's node has recorded the end
            return
        unrecorded = record.status == "RUNNING" or "verdict" not in record.tags
        known = known_results(infos) if unrecorded else KnownResults()
        store.correct(run_id, status, {**known.tags, "error": error}, known.figures, known.texts)
