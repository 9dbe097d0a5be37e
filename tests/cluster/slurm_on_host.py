"""A real Slurm with two nodes on this host, for the duration of the tests.

Each node has its own host name (a UTS namespace), so that its processes look as on another machine. Both can resolve the
names of all nodes (a mount namespace with its own ``/etc/hosts``). Everything else is shared with this host.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "unshare")
NODES = ("n1", "n2")
START_S = 30.0
CANCEL_S = 90.0  # longer than KillWait


def missing() -> str:
    """What is not installed; empty if everything is."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    names = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return f"not installed: {', '.join(names)} (apt-get install slurm-wlm munge)" if names else ""


def why_not() -> str:
    """Why Slurm cannot be started here although it is installed; empty if it can."""
    if os.geteuid() != 0:
        return "only root can start slurmd"
    done = subprocess.run(["unshare", "--uts", "--mount", "hostname", "n1"], capture_output=True)
    return "" if done.returncode == 0 else f"no namespaces: {done.stderr.decode().strip()}"


class Cluster:
    """A running Slurm.

    Attributes:
        environment: the variables that its clients need.
        not_on_n2: a folder that is empty on the node n2.
    """

    def __init__(self, folder: Path) -> None:
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self.not_on_n2 = folder / "not_on_n2"
        self._earlier: set[str] = set()  # jobs of other tests

    def ask(self, *command: str) -> str:
        """The output of a Slurm command."""
        return subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def job_ids(self, *states: str) -> list[str]:
        """This test's jobs that are waiting, running or ended recently, oldest first; only those in these states, if any is given."""
        lines = self.ask("squeue", "-h", "-t", "all", "-S", "i", "-o", "%A %T").splitlines()
        jobs = [words for words in map(str.split, lines) if words[0] not in self._earlier]
        return [job_id for job_id, state in jobs if not states or state in states]

    def start_test(self) -> None:
        """From now on, `job_ids` leaves out the jobs of earlier tests."""
        self._earlier |= set(self.job_ids())

    def cancel_all(self) -> None:
        """Cancels every job, and waits until its processes have ended.

        Raises:
            RuntimeError: a node does not become idle.
        """
        self.ask("scancel", "--user=root")
        deadline = time.monotonic() + CANCEL_S
        while self.num_idle < len(NODES):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the nodes are not idle: {self.ask('sinfo', '-h', '-N', '-o', '%n %T %E')}")
            time.sleep(0.2)

    @property
    def num_idle(self) -> int:
        """Nodes that can take a job."""
        return self.ask("sinfo", "-h", "-N", "-o", "%T").split().count("idle")


@contextmanager
def slurm(folder: Path, cpus_per_node: int = 1) -> Iterator[Cluster]:
    """A Slurm with the nodes `NODES` in the partition ``debug``. Its jobs, daemons and mounts are gone at the end.

    Args:
        folder: empty, of this Slurm only.
    """
    folder.chmod(0o755)  # munged refuses a socket that not everybody can reach
    cluster = Cluster(folder)
    cluster.not_on_n2.mkdir()
    _write_settings(folder, cpus_per_node)
    with ExitStack() as stack:
        stack.enter_context(_daemon(_munged(folder), folder / "munged.out"))
        _await(lambda: (folder / "munge.socket").exists(), "munged", folder)
        conf = str(folder / "slurm.conf")
        stack.enter_context(_daemon(["slurmctld", "-D", "-f", conf], folder / "slurmctld.out"))
        for node in NODES:
            stack.enter_context(_daemon(_slurmd(folder, node), folder / f"{node}.out"))
        stack.callback(cluster.cancel_all)
        _await(lambda: cluster.num_idle == len(NODES), "slurmctld", folder)
        yield cluster


def _write_settings(folder: Path, cpus_per_node: int) -> None:
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o400)
    controller_port, *ports = _free_ports(1 + len(NODES))
    (folder / "hosts").write_text(Path("/etc/hosts").read_text() + f"127.0.0.1 {' '.join(NODES)}\n")
    (folder / "state").mkdir()
    nodes = "".join(
        f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={port} CPUs={cpus_per_node} RealMemory=1000\n"
        for node, port in zip(NODES, ports, strict=True)
    )
    (folder / "slurm.conf").write_text(
        f"""ClusterName=test
SlurmctldHost={socket.gethostname()}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
SchedulerParameters=sched_interval=1,bf_interval=1
KillWait=60
MinJobAge=300
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
{nodes}PartitionName=debug Nodes={",".join(NODES)} Default=YES MaxTime=60 State=UP
"""
    )


def _munged(folder: Path) -> list[str]:
    options = {
        "--key-file": "munge.key",
        "--socket": "munge.socket",
        "--pid-file": "munged.pid",
        "--log-file": "munged.log",
        "--seed-file": "munged.seed",
    }
    return ["munged", "--foreground", "--force", *(f"{name}={folder / file}" for name, file in options.items())]


def _slurmd(folder: Path, node: str) -> list[str]:
    mounted = f"mount --bind {folder}/hosts /etc/hosts"
    if node == NODES[1]:
        mounted += f" && mount -t tmpfs none {folder}/not_on_n2"
    started = f"hostname {node} && {mounted} && exec slurmd -D -N {node} -f {folder}/slurm.conf"
    return ["unshare", "--uts", "--mount", "sh", "-c", started]


@contextmanager
def _daemon(command: list[str], output: Path) -> Iterator[None]:
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(condition: Callable[[], bool], what: str, folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            if condition():
                return
        except subprocess.CalledProcessError:
            pass  # slurmctld does not answer yet
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.out")))
            raise RuntimeError(f"{what} did not start:\n{logs}")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
