"""Settings of a job of several ranks: where its processes run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from loaderlab.config.base import AUTO, MISSING, refuse, setting
from loaderlab.config.slurm import SlurmConfig

JOIN_S = 120.0
UNMEASURED = tuple(  # settings that organise the start of the ranks and do not affect what they measure
    f"launch.{name}" for name in ("rendezvous", "join_s", "partition", "minutes", "options", "folder")
)


@dataclass
class LaunchConfig:
    """The ranks of a job: training processes that share the work of each step. ``none``: one process, without communication."""

    name: ClassVar[str] = "none"

    @property
    def is_distributed(self) -> bool:
        """Whether the job has ranks, even if it is only one."""
        return self.name != LaunchConfig.name

    @property
    def least_ranks(self) -> int:
        """The number of ranks as far as the settings decide it: a node may have several GPUs."""
        return 1


@dataclass
class LocalLaunch(LaunchConfig):
    """Ranks on this machine."""

    name: ClassVar[str] = "local"
    num_ranks: int = setting(2, "number of ranks; on a machine with GPUs one GPU each", at_least=1, at_most=1024)

    @property
    def least_ranks(self) -> int:
        """All of them."""
        return self.num_ranks


@dataclass
class NodesLaunch(LaunchConfig):
    """Ranks on several machines. The same command is typed on each."""

    name: ClassVar[str] = "nodes"
    num_nodes: int = setting(2, "number of nodes", at_least=1, at_most=4096)
    ranks_per_node: Any = setting(
        AUTO, kind=int, doc="ranks on this node; auto: its number of GPUs, or 1", at_least=1, at_most=1024
    )
    rendezvous: str = setting(MISSING, "HOST:PORT of one of the nodes, the same on all")
    join_s: float = setting(JOIN_S, "seconds to wait for the other nodes", at_least=1)

    @property
    def least_ranks(self) -> int:
        """With ``auto``, one on each node."""
        return self.num_nodes * (1 if self.ranks_per_node == AUTO else int(self.ranks_per_node))

    def __post_init__(self) -> None:
        host, _, port = self.rendezvous.rpartition(":")
        if self.rendezvous == MISSING or (host and re.fullmatch(r"\d{1,5}", port) and 0 < int(port) < 65536):
            return
        raise refuse(
            "launch.rendezvous",
            self.rendezvous,
            "must be HOST:PORT of one of the nodes",
            "launch.rendezvous=node1:29500",
        )


@dataclass
class SlurmLaunch(SlurmConfig, LaunchConfig):
    """Ranks on nodes that Slurm allocates."""

    name: ClassVar[str] = "slurm"
    num_nodes: int = setting(1, "number of nodes", at_least=1, at_most=4096)
    gpus_per_node: int = setting(0, "GPUs on each node; 0: none", at_least=0, at_most=1024)
    ranks_per_node: Any = setting(
        AUTO, kind=int, doc="ranks on each node; auto: its number of GPUs, or 1", at_least=1, at_most=1024
    )
    cpus_per_rank: int | None = setting(None, "cores of each rank; null: Slurm's default", at_least=1, example=4)
    join_s: float = setting(JOIN_S, "seconds in which all nodes must have started the job", at_least=1)

    @property
    def num_node_ranks(self) -> int:
        """The number of ranks on each node; auto: one for each GPU, otherwise 1."""
        return int(self.ranks_per_node) if self.ranks_per_node != AUTO else max(1, self.gpus_per_node)

    @property
    def least_ranks(self) -> int:
        """All of them."""
        return self.num_nodes * self.num_node_ranks

    def __post_init__(self) -> None:
        self.check_options("launch")
