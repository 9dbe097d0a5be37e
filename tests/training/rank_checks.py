"""What each rank of a real process group does in the tests of several ranks; the tests compare the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from rich.console import Console

from loaderlab import metrics
from loaderlab.cli.schemas import register
from loaderlab.config import TrainConfig, UserError
from loaderlab.device.resolve import device_of
from loaderlab.loaders.contract import Batch, Loader
from loaderlab.meter.phases import StepMeter
from loaderlab.runs.context import RunContext
from loaderlab.runs.job import single
from loaderlab.runs.loader_set import LoaderSet
from loaderlab.runs.prepare import Prepared, prepare
from loaderlab.system.ranks import SINGLE, Ranks
from loaderlab.system.terminal import Terminal
from loaderlab.tracking.untracked import Untracked
from loaderlab.training import checkpoint
from loaderlab.training.loop import Observers, train
from loaderlab.training.rank_group import RankGroup
from loaderlab.training.step import ModelStep, Progress
from tests.conftest import compose
from tests.own_task import OWN
from tests.own_task import __name__ as OWN_MODULE
from tests.training.rank_data import clusters

GLOBAL_BATCH = 64
HOST = ("torch_threads=1", "loader.num_workers=0")
SMALL = ("model=feedforward", "model.hidden=[16]", "evaluate=false", *HOST)
CLUSTERS = (
    "data=custom",
    "data.target=tests.training.rank_data:vectors",
    "+data.options={num_train: 256, num_val: 60}",
)
SGD = ("optimizer=sgd", "optimizer.lr=0.02")
IMAGE_LOADERS = {
    "native": ("loader=native", "loader.num_workers=1"),
    "spdl": ("loader=spdl",),
    "dali": ("loader=dali",),
    "resident": ("loader=resident",),
}
OnEpoch = Callable[["Trained", Progress], None]


@dataclass
class Trained:
    """A run that was trained here, without its record.

    Attributes:
        ids: of each epoch's samples, in order; empty lists without ids.
        inputs: the first number of each sample.
    """

    config: TrainConfig
    prepared: Prepared
    meter: StepMeter
    ids: list[list[int]]
    inputs: list[float]

    @property
    def step(self) -> ModelStep:
        """Its step."""
        step = self.prepared.parts.step
        assert isinstance(step, ModelStep)
        return step

    @property
    def weights(self) -> torch.Tensor:
        """All weights: (N,) float32."""
        return flat(self.step.model.parameters())

    @property
    def num_steps(self) -> int:
        """Steps in total."""
        return self.prepared.progress.step


def flat(tensors: Any) -> torch.Tensor:
    """All numbers of some tensors."""
    return torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])


def trained(group: RankGroup | None, folder: Path, *overrides: str, on_epoch: OnEpoch | None = None) -> Trained:
    """Prepares and trains one rank, or one process, as a run does."""
    config = compose([*overrides, f"checkpoint.dir={folder}"])
    terminal = Terminal(Console(file=StringIO()))
    ranks = SINGLE if group is None else group.ranks
    context = RunContext(config, single(config, overrides), terminal, Untracked("an id"), folder, group)
    loaders = LoaderSet(config, terminal, ranks)
    try:
        device = device_of(config, None if group is None else ranks.local_rank)
        prepared = prepare(context, loaders, device)
        made = Trained(config, prepared, StepMeter(device), [], [])
        _record(prepared.parts.loader, made)
        after = Observers(lambda *_: None, lambda progress, _: on_epoch(made, progress) if on_epoch else None)
        parts, progress = prepared.parts, prepared.progress
        lengths = {"epochs": config.num_epochs, "steps": config.steps, "accumulate": config.accumulate}
        train(parts, made.meter, progress, after, **lengths)  # type: ignore[arg-type]
        return made
    finally:
        loaders.close()


def _record(loader: Loader, made: Trained) -> None:
    """Lets the loader note what it delivers."""
    epoch, transfer = loader.epoch, loader.transfer

    def recorded_epoch(number: int) -> Any:
        made.ids.append([])
        return epoch(number)

    def recorded_transfer(batch: Batch) -> Batch:
        batch = transfer(batch)
        if batch.ids is not None:
            made.ids[-1] += batch.ids.tolist()
        if not batch.is_whole:
            made.inputs += batch.inputs.reshape(len(batch), -1)[:, 0].tolist()
        return batch

    loader.epoch, loader.transfer = recorded_epoch, recorded_transfer  # type: ignore[method-assign,assignment]


def per_rank(group: RankGroup) -> str:
    """The setting that divides the global batch."""
    return f"batch_size={GLOBAL_BATCH // group.ranks.world_size}"


def same_weights(group: RankGroup, folder: Path) -> Any:
    """Weights after 50 steps with batches of other samples and AdamW."""
    made = trained(group, folder, *CLUSTERS, *SMALL, "batch_size=8", "steps=50")
    return {"weights": made.weights, "steps": made.num_steps}


def same_learning(group: RankGroup, folder: Path) -> Any:
    """Weights after 40 steps, and those of one process with the global batch."""
    common = (*CLUSTERS, *SMALL, *SGD, "epochs=10")
    made = trained(group, folder, *common, per_rank(group))
    alone = trained(None, folder, *common, f"batch_size={GLOBAL_BATCH}") if group.ranks.is_first else None
    losses = group.all_gather([step.loss for step in made.meter.steps])
    return {
        "weights": made.weights,
        "losses": torch.tensor(losses).mean(0),
        "alone": alone and {"weights": alone.weights, "losses": torch.tensor([s.loss for s in alone.meter.steps])},
    }


def accumulation(group: RankGroup, folder: Path) -> Any:
    """The same with two and three steps for each update; the last update of an epoch has fewer."""
    result: dict[int, Any] = {}
    for accumulate in (2, 3):
        common = (*CLUSTERS, *SMALL, *SGD, "epochs=5", f"accumulate={accumulate}")
        made = trained(group, folder, *common, per_rank(group))
        alone = trained(None, folder, *common, f"batch_size={GLOBAL_BATCH}") if group.ranks.is_first else None
        result[accumulate] = {
            "weights": made.weights,
            "alone": alone and alone.weights,
            "has_collective": [step.collective_ns > 0 for step in made.meter.steps],
        }
    return result


def batch_norm(group: RankGroup, folder: Path) -> Any:
    """The validation losses of repeats with batch normalisation, on ranks and with one process; the buffers after each."""
    common = (*CLUSTERS, *HOST, *SGD, "model=custom", "model.target=tests.training.rank_data:normed", "epochs=8")
    losses, alone, buffers, has_collective = list[float](), list[float](), list[torch.Tensor](), list[bool]()
    for seed in range(5):
        made = trained(group, folder, *common, per_rank(group), f"seed={seed}")
        losses.append(made.prepared.progress.validation[metrics.VAL_LOSS])
        buffers.append(flat(made.step.model.buffers()))
        has_collective += [step.collective_ns > 0 for step in made.meter.steps]
        if group.ranks.is_first:
            reference = trained(None, folder, *common, f"batch_size={GLOBAL_BATCH}", f"seed={seed}")
            alone.append(reference.prepared.progress.validation[metrics.VAL_LOSS])
    return {"losses": losses, "alone": alone, "buffers": buffers, "has_collective": has_collective}


def samples_of_loaders(group: RankGroup, folder: Path) -> Any:
    """The ids of two epochs with each loader, and the number of samples."""
    images = ("data=imagefolder", f"data.root={folder / 'images'}", "data.val_fraction=0.1")
    size = ("data.transform.image_size=16", "data.transform.resize=16", "batch_size=2", "drop_last=false", "epochs=2")
    small = [text for text in SMALL if not text.startswith("loader.")]
    result: dict[str, Any] = {}
    for name, loader in IMAGE_LOADERS.items():
        made = trained(group, folder, *images, *size, *small, *loader)
        result[name] = (made.ids, made.prepared.spec.train.num_samples, made.num_steps)
    return result


def augmentation(group: RankGroup, folder: Path) -> Any:
    """The random inputs of a user's dataset, read in the rank's process or in a worker."""
    data = ("data=custom", "data.target=tests.training.rank_data:random", "+data.options={num_samples: 40}")
    runs = [
        trained(group, folder, *data, *SMALL, "batch_size=4", "epochs=1", f"loader.num_workers={workers}")
        for workers in (0, 1)
    ]
    return [(run.inputs, run.weights) for run in runs]


@torch.no_grad()
def evaluation(group: RankGroup, folder: Path) -> Any:
    """Loss and accuracy of sets that the ranks cannot divide evenly, and those of all samples in one batch."""
    result: dict[tuple[int, int], Any] = {}
    uneven = 4 * group.ranks.world_size + 1
    for num_val, batch_size in ((1, 2), (3, 2), (uneven, 2), (uneven, 1)):
        sizes = f"+data.options={{num_train: 64, num_val: {num_val}}}"
        with torch.enable_grad():
            made = trained(
                group,
                folder,
                *CLUSTERS[:2],
                sizes,
                *SMALL,
                *SGD,
                "evaluate=true",
                f"batch_size={batch_size}",
                "epochs=1",
            )
        inputs, labels = zip(*clusters(num_val, 2), strict=True)
        logits, targets = made.step.model(torch.stack(inputs)), torch.tensor(labels)
        alone = (F.cross_entropy(logits, targets).item(), (logits.argmax(1) == targets).double().mean().item())
        progress = made.prepared.progress
        result[num_val, batch_size] = (
            (progress.validation[metrics.VAL_LOSS], progress.validation[metrics.VAL_ACCURACY]),
            alone,
        )
    return result


def streams(group: RankGroup, folder: Path) -> Any:
    """An iterable dataset that ends on the last rank first: after three of the four steps of the others."""
    world_size = group.ranks.world_size
    result: dict[int, Any] = {}
    for accumulate, workers in ((1, 0), (2, 1)):
        common = (
            *SMALL,
            *SGD,
            "data=custom",
            "data.target=tests.training.rank_data:stream",
            "data.sharded=true",
            "epochs=3",
            "drop_last=true",
            "optimizer.schedule=constant",
            f"accumulate={accumulate}",
            f"loader.num_workers={workers}",
        )
        cut = [0] * (world_size - 1) + [GLOBAL_BATCH // world_size]
        options = f"+data.options={{num_samples: 256, cut: {cut}, world_size: {world_size}}}"
        made = trained(group, folder, *common, options, per_rank(group))
        alone = None
        if group.ranks.is_first:
            options = f"+data.options={{num_samples: 256, cut: [{GLOBAL_BATCH}], world_size: 1}}"
            alone = trained(None, folder, *common, options, f"batch_size={GLOBAL_BATCH}")
        result[accumulate] = {
            "steps": made.num_steps,
            "updates": made.prepared.progress.updates,
            "weights": made.weights,
            "alone": alone and (alone.weights, alone.num_steps, alone.prepared.progress.updates),
        }
    return result


def resume(group: RankGroup, folder: Path) -> Any:
    """A run that continues from the middle of another, with the same and with another number of ranks."""
    world_size = group.ranks.world_size
    path = folder / f"of_{world_size}" / checkpoint.NAME
    common = (*CLUSTERS, *SMALL, "epochs=4")

    def save(made: Trained, progress: Progress) -> None:
        if progress.epoch == 2 and group.ranks.is_first:
            checkpoint.save(path, made.step, progress, made.config, "an id", world_size)

    path.parent.mkdir(exist_ok=True)
    whole = trained(group, folder, *common, per_rank(group), on_epoch=save)
    rest = trained(group, folder, *common, per_rank(group), f"resume={path}")
    alone = None
    if group.ranks.is_first:
        alone = trained(None, folder, *common, f"batch_size={GLOBAL_BATCH}", f"resume={path}").weights
    refused = ""
    try:
        trained(group, folder, *common, "batch_size=8", f"resume={path}")
    except UserError as error:
        refused = str(error)
    return {"whole": whole.weights, "rest": rest.weights, "rest_ids": rest.ids, "alone": alone, "refused": refused}


def own_task(group: RankGroup, folder: Path) -> Any:
    """Weights and evaluation of a task of one's own, those of one process with the global batch, and a step that avoids the wrapper."""
    common = (*OWN, f"model.evaluate={OWN_MODULE}:evaluate", "+model.options={dropout: 0}", *HOST, *SGD, "epochs=3")
    data = "+data.options={num_train: 256, num_val: 7}"
    made = trained(group, folder, *common, data, per_rank(group))
    alone = trained(None, folder, *common, data, f"batch_size={GLOBAL_BATCH}") if group.ranks.is_first else None
    refused = ""
    try:
        avoiding = f"model.step={OWN_MODULE}:around_the_wrapper"
        trained(group, folder, *[avoiding if text.startswith("model.step=") else text for text in common], data)
    except UserError as error:
        refused = str(error)
    return {
        "weights": made.weights,
        "validation": made.prepared.progress.validation,
        "alone": alone and {"weights": alone.weights, "validation": alone.prepared.progress.validation},
        "refused": refused,
    }


CHECKS: dict[str, Callable[[RankGroup, Path], Any]] = {
    check.__name__: check
    for check in (
        same_weights,
        same_learning,
        accumulation,
        batch_norm,
        samples_of_loaders,
        augmentation,
        evaluation,
        streams,
        resume,
        own_task,
    )
}


def work(rank: int, world_size: int, folder: str, names: list[str]) -> None:
    """Makes the checks on one rank, and writes their results."""
    register()
    torch.set_num_threads(1)
    store = f"file://{folder}/store_{world_size}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    group = RankGroup(Ranks(rank, world_size, rank, world_size, "a"))
    results = {name: CHECKS[name](group, Path(folder)) for name in names}
    torch.save(results, Path(folder) / f"results_{rank}_of_{world_size}.pt")
    group.close()
