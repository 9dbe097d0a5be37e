"""How a job of several ranks ended: which rank failed first, and why, is named once, and the run in MLflow says the same."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from loaderlab.config import TrainConfig, UserError, store_root
from loaderlab.runs.job import RunResult
from loaderlab.runs.node_board import NodeBoard, Note
from loaderlab.runs.rank_process import GOOD, RankEnd, RankInfo, read_ends, read_infos
from loaderlab.system.causes import reason
from loaderlab.system.processes import USUAL_CAUSES, error_line, signal_name
from loaderlab.system.ranks import node_name
from loaderlab.system.terminal import Terminal

if TYPE_CHECKING:
    from loaderlab.tracking.records import RunRecord
    from loaderlab.tracking.store import Store

OWN_SIGNALS = (-signal.SIGTERM,)  # the agent ends the other ranks with it
RECORDING_S = 30.0  # for rank 0 on another node to complete the record
RECORDING_OF_SILENT_S = 5.0  # the same if a node stopped answering, which may be that one
AFTER_ITS_END = "after it had finished"
KEPT = "unrecorded"  # a file in the folder of a node's ranks, whose steps are nowhere else


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

    Args:
        folder: of this node's ranks. It gets a file `KEPT` if their steps cannot be recorded.

    Raises:
        KeyboardInterrupt: this process was interrupted.
    """
    infos, ends = read_infos(folder), read_ends(folder)
    result = next((end.result for end in ends if end.result is not None and end.rank == 0), None)
    finished = bool(infos) and len(ends) == len(infos) and all(end.status in GOOD for end in ends)
    finished = finished and not ended.exit_codes and ended.interrupt is None
    is_silent = board is not None and bool(board.silent)
    if finished and (result is not None or not is_silent):  # otherwise rank 0 may have died before it recorded the end
        return result or RunResult("", "FINISHED")
    run_id = next((info.run_id for info in infos if info.run_id), "")
    if ended.interrupt is not None:
        _correct(_End(run_id, "KILLED", error_line(ended.interrupt)), config, folder, terminal)
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
    wait_s = RECORDING_OF_SILENT_S if board is not None and board.silent else RECORDING_S
    recorded = _correct(_End(run_id, status, note.text, wait_s), config, folder, terminal)
    if board is not None:
        board.wait_for_others()
    if finished and recorded == "FINISHED":
        return RunResult("", "FINISHED")
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
    reported = {end.rank: end for end in ends}
    for rank, code in exit_codes.items():
        end = reported.get(rank)
        if end is None:
            notes.append(Note(_named(rank, nodes, _how(code)), code in OWN_SIGNALS, 0.0))
        elif end.status in GOOD:
            notes.append(Note(_named(rank, nodes, _how(code, finished=True)), code in OWN_SIGNALS, end.at))
    if not notes:
        return Note(f"node {node_name()}: its ranks ended without a result", True, time.time())
    return min(notes, key=lambda note: (note.secondary, note.at))


def _same(ends: Sequence[RankEnd], end: RankEnd) -> bool:
    """Whether all ranks report the same error, which is then not the error of one of them."""
    return len(ends) > 1 and all(other.error == end.error for other in ends)


def _named(rank: int, nodes: Mapping[int, str], text: str, *, shared: bool = False) -> str:
    return text if shared else f"rank {rank} (node {nodes.get(rank, node_name())}): {text}"


def _how(code: int, *, finished: bool = False) -> str:
    """How a process ended that left no report, or a good one."""
    if code >= 0:
        return f"its process ended with exit code {code} {AFTER_ITS_END if finished else 'and no result'}"
    name = signal_name(-code)
    if finished:
        return f"its process was ended by {name} {AFTER_ITS_END}"
    usual = f" (usual cause: {USUAL_CAUSES[name]})" if name in USUAL_CAUSES else ""
    return f"its process was ended by {name}{usual}"


@dataclass(frozen=True)
class _End:
    """How a run ended.

    Attributes:
        wait_s: for rank 0 on another node to complete the record.
    """

    run_id: str
    status: str
    error: str
    wait_s: float = RECORDING_S


def _correct(end: _End, config: TrainConfig, folder: Path, terminal: Terminal) -> str:
    """Gives the run its true status and its cause, and adds the steps of this node's ranks that its record does not have. If that
    is impossible, leaves a file `KEPT` in their folder. Returns the status of the run; empty if it is not known."""
    if not end.run_id:
        return ""
    from loaderlab.tracking import open_store

    infos = read_infos(folder)
    try:
        store = open_store(config.tracking, store_root(), create=False)
        record = store.run(end.run_id)
        if record is None or record.status == "FINISHED":
            return "" if record is None else record.status
        completed = _completed if any(info.rank == 0 for info in infos) else _completed_elsewhere
        return completed(store, record, end, infos)
    except (UserError, OSError) as error:
        terminal.warn(f"how run {end.run_id} ended could not be recorded: {reason(error)}")
        if any(info.rows for info in infos):
            terminal.warn(f"the steps of this node's ranks are kept in {folder}")
            (folder / KEPT).touch()
        return ""


def _completed(store: Store, record: RunRecord, end: _End, infos: Sequence[RankInfo]) -> str:
    """Completes the record on the node of rank 0, and returns its status."""
    from loaderlab.runs.rank_rows import KnownResults, known_results

    unrecorded = record.status == "RUNNING" or "verdict" not in record.tags
    known = known_results(infos) if unrecorded else KnownResults()
    store.correct(end.run_id, end.status, {**known.tags, "error": end.error}, known.figures, known.texts)
    return end.status


def _completed_elsewhere(store: Store, record: RunRecord, end: _End, infos: Sequence[RankInfo]) -> str:
    """Adds the steps of another node's ranks as a file of their own, since the job's files and metrics are those of rank 0. Adds the
    status and the cause too if rank 0 does not record them. Returns the status."""
    from loaderlab.runs.rank_rows import steps_of_node
    from loaderlab.tracking.store import PROCESS_KILLED

    store.add_texts(end.run_id, steps_of_node(infos))
    until = time.monotonic() + end.wait_s
    while record.status == "RUNNING" and time.monotonic() < until:
        time.sleep(1.0)
        record = store.run(end.run_id) or record
    if record.status != "RUNNING" and record.tags.get("error") != PROCESS_KILLED:
        return record.status
    store.correct(end.run_id, end.status, {"error": end.error}, {}, {})
    return end.status
