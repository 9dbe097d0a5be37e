"""The place of a process in a job of several ranks."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """The place of this process among the ranks of its job; without arguments, the only one.

    Attributes:
        rank: 0 to ``world_size`` - 1; rank 0 records the job.
        local_rank: among the ranks of this node.
        local_world_size: ranks on this node.
        node: name of the machine; empty for the only rank.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    node: str = ""

    @property
    def is_first(self) -> bool:
        """Whether it is rank 0."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether it is the only rank."""
        return self.world_size == 1

    def __str__(self) -> str:
        return f"rank {self.rank} (node {self.node})"


SINGLE = Ranks()


def node_name() -> str:
    """The name of this machine; under Slurm the name that Slurm gives it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def ranks_of_environment() -> Ranks:
    """The place that torch's elastic agent has written into the environment of this process."""
    rank, world_size, local_rank, local_world_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    return Ranks(rank, world_size, local_rank, local_world_size, node_name())
