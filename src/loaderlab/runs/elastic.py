"""The ranks of one node, started and watched by torch's elastic agent in this process."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch._C._distributed_c10d import TCPStore

from loaderlab.config import AUTO, JOIN_S, LocalLaunch, NodesLaunch, TrainConfig, UserError, refuse
from loaderlab.runs.job import Job, RunResult
from loaderlab.runs.node_board import NodeBoard
from loaderlab.runs.rank_failure import KEPT, Ended, conclude
from loaderlab.runs.rank_process import RankTask, read_infos, work
from loaderlab.system.causes import reason, safe_text
from loaderlab.system.processes import Terminated
from loaderlab.system.terminal import Terminal

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

LOOPBACK = "127.0.0.1"
PORT_TAKEN = ("in use", "EADDRINUSE")
OF_RENDEZVOUS = ("endezvous", "TCPStore", "ocket")  # in the texts of torch's errors
READ_S = 60.0  # for the store to answer
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # for which the agent installs handlers
ANSWER_S = 5.0  # for a store to answer
LONGER_S = 300.0  # launch.join_s for nodes that Slurm starts late
RECORD_S = "60"  # for the ranks to write their records after a signal; then they are killed
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
LOGGERS = ("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing")


@dataclass(frozen=True)
class NodeSpec:
    """The ranks of one node.

    Attributes:
        endpoint: HOST:PORT of the rendezvous, the same on all nodes; port 0 with one node: any free port.
        run_id: identifies the job at the rendezvous, the same on all nodes.
        join_s: seconds to wait for the other nodes.
        slurm_job: the id of the Slurm job that chose the endpoint; empty if the user typed it.
    """

    num_nodes: int
    ranks_per_node: int
    endpoint: str
    run_id: str
    join_s: float
    slurm_job: str = ""

    @property
    def host(self) -> str:
        """The host of the rendezvous."""
        return self.endpoint.rpartition(":")[0]


def node_spec(launch: LocalLaunch | NodesLaunch, config: TrainConfig) -> NodeSpec:
    """The ranks of this node by the settings.

    Raises:
        UserError: there are fewer GPUs than ranks.
    """
    if isinstance(launch, LocalLaunch):
        check_gpus(config, launch.num_ranks, "launch.num_ranks")
        return NodeSpec(1, launch.num_ranks, f"{LOOPBACK}:0", uuid.uuid4().hex, JOIN_S)
    ranks = ranks_of_node(config, launch.ranks_per_node)
    check_gpus(config, ranks, "launch.ranks_per_node")
    return NodeSpec(launch.num_nodes, ranks, launch.rendezvous, f"loaderlab-{launch.num_nodes}", launch.join_s)


def ranks_of_node(config: TrainConfig, requested: Any) -> int:
    """The number of ranks on this node; auto: one for each GPU that the job uses, otherwise 1."""
    return int(requested) if requested != AUTO else max(1, _num_gpus(config))


def check_gpus(config: TrainConfig, num_ranks: int, setting: str) -> None:
    """Checks that each rank can have a GPU of its own, if the job uses GPUs.

    Raises:
        UserError: there are fewer GPUs than ranks, or ``device`` names one GPU.
    """
    if config.device.startswith("cuda:"):
        raise refuse("device", config.device, "names one GPU, and each rank has its own", "device=cuda")
    num_gpus = _num_gpus(config)
    if num_gpus and num_ranks > num_gpus:
        what = f"this machine has {num_gpus} GPU{'s' * (num_gpus > 1)}, and each rank needs its own"
        raise refuse(setting, num_ranks, what, f"{setting}={num_gpus}, or device=cpu", is_example=False)


def _num_gpus(config: TrainConfig) -> int:
    """The number of GPUs that the ranks of a node share; 0 if they use none."""
    if config.accelerator.is_emulated or config.device == "cpu":
        return 0
    return torch.cuda.device_count()


def run_ranks(config: TrainConfig, job: Job, terminal: Terminal, spec: NodeSpec) -> RunResult:
    """Runs this node's ranks of a job to their end.

    Returns:
        The result of the job; on a node without rank 0 only its status and its error.

    Raises:
        UserError: the nodes do not meet at the rendezvous.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the ranks have ended, and the run is KILLED.
    """
    folder = Path(tempfile.mkdtemp(prefix="loaderlab-ranks-"))
    board = NodeBoard(spec.endpoint, folder, hosts=_is_own(spec.host)) if spec.num_nodes > 1 else None
    if spec.num_nodes > 1:
        terminal.say(f"{'ranks':<10}waiting for {spec.num_nodes} nodes at {spec.endpoint}")
    try:
        with _as_before(spec):
            ended = _run(RankTask(config, job, str(folder)), spec, board)
        return conclude(config, ended, folder, board, terminal)
    finally:
        if board is not None:
            board.close()
        if not (folder / KEPT).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _run(task: RankTask, spec: NodeSpec, board: NodeBoard | None) -> Ended:
    """How this node's ranks ended.

    Raises:
        UserError: the nodes do not meet at the rendezvous.
    """
    # imported here, since they install a handler of their logger
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    try:
        if board is not None:
            _check_answer(spec)
            board.start()
        other_has_store = False
        try:
            elastic_launch(_launch_config(spec, is_host=_is_own(spec.host)), work)(task)
        except RendezvousError as error:
            # two agents of one machine, as with Slurm on one host: the other one has the store
            other_has_store = any(part in safe_text(error) + reason(error) for part in PORT_TAKEN)
            if not other_has_store:
                raise
        if other_has_store:  # not in the handler: later errors would name the port as their cause
            elastic_launch(_launch_config(spec, is_host=False), work)(task)
    except ChildFailedError as error:
        return Ended(exit_codes={rank: failure.exitcode for rank, failure in error.failures.items()})
    except SignalException as error:
        return Ended(interrupt=Terminated() if error.sigval == signal.SIGTERM else KeyboardInterrupt())
    except KeyboardInterrupt as interrupt:
        return Ended(interrupt=interrupt)
    except (RendezvousError, RuntimeError, OSError, ValueError) as error:
        if board is not None and board.silent:
            return Ended()
        if isinstance(error, RendezvousError) or any(part in safe_text(error) for part in OF_RENDEZVOUS):
            if board is not None and read_infos(
                Path(task.folder)
            ):  # the nodes had met, so the node with the store has ended
                return Ended()
            raise _not_met(spec, error) from error
        raise
    return Ended()


def _launch_config(spec: NodeSpec, *, is_host: bool) -> LaunchConfig:
    """The settings of the agent. ``is_host``: the store of the rendezvous is in this process."""
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=spec.num_nodes,
        max_nodes=spec.num_nodes,
        nproc_per_node=spec.ranks_per_node,
        run_id=spec.run_id,
        rdzv_backend="c10d",
        rdzv_endpoint=spec.endpoint,
        rdzv_configs={
            "timeout": spec.join_s,
            "join_timeout": spec.join_s,
            "read_timeout": max(1, round(min(spec.join_s, READ_S))),
            "last_call_timeout": 1,
            "is_host": is_host,
        },
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
        local_addr=_own_address(spec.host),
    )


def _check_answer(spec: NodeSpec) -> None:
    """Checks that a store answers if the port is in use: torch would wait without limit for an answer of another program.

    Raises:
        UserError: nothing answers.
    """
    host, port = spec.host, int(spec.endpoint.rpartition(":")[2])
    try:
        socket.create_connection((host, port), timeout=ANSWER_S).close()
    except OSError:
        return  # there is no store yet
    answered = threading.Event()

    def ask() -> None:
        with suppress(RuntimeError):
            TCPStore(host, port, is_master=False, timeout=timedelta(seconds=ANSWER_S))
        answered.set()

    threading.Thread(target=ask, name="rendezvous check", daemon=True).start()
    if not answered.wait(min(2 * ANSWER_S, spec.join_s)):
        raise _not_met(spec, OSError("another program uses this port and does not answer"))


def _not_met(spec: NodeSpec, error: Exception) -> UserError:
    """Why the nodes do not meet."""
    detail = reason(error)
    is_late = "imed out" in detail or "imeout" in type(error).__name__
    if spec.slurm_job:  # Slurm has chosen the nodes and the port
        nodes, limit = f"the {spec.num_nodes} nodes of Slurm job {spec.slurm_job}", f"launch.join_s={spec.join_s:g}"
        if not is_late:
            return UserError(f"{nodes} cannot meet at {spec.endpoint}: {detail}")
        longer = f"launch.join_s={max(LONGER_S, 2 * spec.join_s):g}"
        return UserError(f"{nodes} did not meet at {spec.endpoint} within {limit} seconds. Type: {longer}")
    why = f"no rendezvous is possible there: {detail}"
    if is_late:
        why = f"{spec.num_nodes} nodes did not meet there within launch.join_s={spec.join_s:g} seconds"
    return refuse(
        "launch.rendezvous",
        spec.endpoint,
        f"{why}. HOST:PORT is that of one of the nodes; the port must be free there and reachable from the others",
        f"the same command on all {spec.num_nodes} nodes",
        is_example=False,
        error=UserError,
    )


@contextmanager
def _as_before(spec: NodeSpec) -> Iterator[None]:
    """Restores what the agent changes in this process: handlers of signals, environment variables, the level of its loggers."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    environment = dict(os.environ)
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # this process reports how the ranks ended
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", RECORD_S)
    if interface := _interface_to(spec.host):
        for name in INTERFACES:
            os.environ.setdefault(name, interface)
    try:
        yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _is_own(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {entry.address for interface in psutil.net_if_addrs().values() for entry in interface}
    return bool(addresses & own)


def _own_address(host: str) -> str:
    """This machine's address in the network of a host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return LOOPBACK


def _interface_to(host: str) -> str:
    """The name of the network interface through which a host is reached; empty if it is not known."""
    address = _own_address(host)
    addresses = psutil.net_if_addrs()
    return next((name for name, own in addresses.items() if any(entry.address == address for entry in own)), "")
