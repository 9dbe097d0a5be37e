"""Builds a user's loader with other settings: a DataLoader from what it was constructed from, or by calling a function."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import torch.multiprocessing
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from loaderlab.config import UserError
from loaderlab.system.causes import reason
from loaderlab.tuning.candidate import NATIVE, Branch, Candidate
from loaderlab.tuning.settings import DEFAULT_PREFETCH, FORM, arguments_of

OWN = "own"  # the branch of a function that returns something other than a DataLoader
DATALOADER_ARGUMENTS = tuple(inspect.signature(DataLoader.__init__).parameters)[1:]
UNCHANGED = (  # arguments that a rebuilt loader takes over; those that choose the samples depend on each other
    "collate_fn", "worker_init_fn", "generator", "pin_memory_device", "in_order",
)  # fmt: skip

GIVEN = ("num_workers", "prefetch_factor", "pin_memory", "persistent_workers")  # that a function's DataLoader must have
OTHER = Candidate(makers=1, prefetch=3, pin_memory=True, persistent=True)  # differs from the defaults of a DataLoader


class LoaderSource(abc.ABC):
    """Builds the same loader with other settings.

    Attributes:
        current: the settings now.
        example: the loader with its current settings, or one that was built to read them; None if it is no DataLoader.
    """

    current: Candidate
    example: DataLoader[Any] | None

    @abc.abstractmethod
    def build(self, candidate: Candidate, epoch_steps: int | None = None) -> Iterable[Any]:
        """A new loader.

        Args:
            epoch_steps: an epoch has at most this many batches, if the loader allows it: see `limited`.
        """


class RebuiltLoader(LoaderSource):
    """Builds a DataLoader from the arguments of another one.

    Raises:
        UserError: it has arguments that cannot be read from it.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.example = loader
        self.current = candidate_of(loader)
        self.build(self.current)  # refuses now what cannot be rebuilt

    def build(self, candidate: Candidate, epoch_steps: int | None = None) -> Iterable[Any]:
        assert self.example is not None
        return rebuilt(self.example, candidate, epoch_steps)

    def __getstate__(self) -> dict[str, Any]:
        """For another process: without the workers of the user's own loader."""
        assert self.example is not None
        return {"example": rebuilt(self.example, self.current), "current": self.current}


class LoaderFunction(LoaderSource):
    """Calls a function of the user that returns a loader.

    Args:
        pins: see `source_of`.

    Raises:
        UserError: it does not take the settings, ignores one of them, or does not return something to iterate over.
    """

    def __init__(self, function: Callable[..., Iterable[Any]], *, pins: bool) -> None:
        self._function = function
        loader = self._called(Candidate())
        self.example = loader if isinstance(loader, DataLoader) else None
        if self.example is None:
            self.current = Candidate(Branch(OWN))
        else:
            self.current = candidate_of(self.example)
            self._called(replace(OTHER, pin_memory=pins))  # a setting that is ignored is refused before the first trial

    def build(self, candidate: Candidate, epoch_steps: int | None = None) -> Iterable[Any]:
        return limited(self._called(candidate), epoch_steps)

    def _called(self, candidate: Candidate) -> Iterable[Any]:
        try:
            loader = self._function(**arguments_of(candidate))
        except TypeError as error:
            if _takes(self._function, arguments_of(candidate)):
                raise
            raise UserError(
                f"loader: the function {_name(self._function)} must take all of the settings: {reason(error)}. {FORM}"
            ) from error
        if not isinstance(loader, Iterable):
            raise UserError(
                f"loader: the function {_name(self._function)} returned {type(loader).__name__}, not a loader. {FORM}"
            )
        if isinstance(loader, DataLoader) and (ignored := _ignored(loader, arguments_of(candidate))):
            raise UserError(
                f"loader: the function {_name(self._function)} was called with {ignored}: it must use all of its settings. {FORM}"
            )
        return loader

    def __getstate__(self) -> dict[str, Any]:
        """For another process: without the loader that was built here."""
        return {"_function": self._function, "current": self.current, "example": None}


def source_of(loader: Any, *, pins: bool = True) -> LoaderSource:
    """Builds a user's loader.

    Args:
        loader: a DataLoader, or a function of the settings that returns a loader.
        pins: pinned memory may be tried; otherwise a function may ignore it.

    Raises:
        UserError: it cannot be built again.
    """
    if isinstance(loader, DataLoader):
        return RebuiltLoader(loader)
    if callable(loader):
        return LoaderFunction(loader, pins=pins)
    raise UserError(f"loader: {type(loader).__name__} cannot be built with other settings. {FORM}")


# ---- a DataLoader -----------------------------------------------------------------------------------------------------


def candidate_of(loader: DataLoader[Any]) -> Candidate:
    """The settings of a DataLoader."""
    workers = loader.num_workers
    context = loader.multiprocessing_context
    return Candidate(
        Branch(NATIVE),
        workers,
        loader.prefetch_factor if workers else None,
        bool(loader.pin_memory),
        None,
        bool(loader.persistent_workers) if workers else None,
        context.get_start_method() if workers and context is not None else None,
    )


def rebuilt(loader: DataLoader[Any], candidate: Candidate, epoch_steps: int | None = None) -> DataLoader[Any]:
    """A new DataLoader of the same class with the same data, in the same order, and other settings.

    Args:
        epoch_steps: see `LoaderSource.build`; a subclass makes its samplers in its own way, so its epochs are ended from outside.

    Raises:
        UserError: an argument of its class cannot be read from it, or the new one would not have the same batches.
    """
    kind = type(loader)
    arguments = {name: getattr(loader, name) for name in UNCHANGED} | _settings(loader, candidate)
    if kind is DataLoader:
        return kind(**arguments, **_samples(loader, epoch_steps))
    arguments = _arguments_of_subclass(loader, arguments | _samples(loader, None))
    try:
        again = kind(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"loader: {kind.__name__} cannot be built again: {reason(error)}. {FORM}") from error
    if changed := _changed(loader, again):
        raise UserError(f"loader: {kind.__name__} cannot be built again: the new one would have {changed}. {FORM}")
    return again


def _samples(loader: DataLoader[Any], epoch_steps: int | None) -> dict[str, Any]:
    """The arguments that choose the samples of each batch."""
    chosen: dict[str, Any] = {"dataset": loader.dataset}
    if isinstance(loader.dataset, IterableDataset):
        return chosen | {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    if loader.batch_sampler is None:  # the dataset returns whole batches
        sampler = loader.sampler
        return chosen | {"batch_size": None, "sampler": sampler if epoch_steps is None else First(sampler, epoch_steps)}
    if epoch_steps is not None:
        return chosen | {"batch_sampler": First(loader.batch_sampler, epoch_steps)}
    if loader.batch_size is None:
        return chosen | {"batch_sampler": loader.batch_sampler}
    return chosen | {"batch_size": loader.batch_size, "sampler": loader.sampler, "drop_last": loader.drop_last}


def _settings(loader: DataLoader[Any], candidate: Candidate) -> dict[str, Any]:
    """The arguments that a candidate changes, and those that are allowed with workers only."""
    settings: dict[str, Any] = {"num_workers": candidate.makers, "pin_memory": bool(candidate.pin_memory)}
    if not candidate.makers:
        return settings
    context: Any = loader.multiprocessing_context if loader.num_workers else None
    if candidate.start_method is not None and (context is None or context.get_start_method() != candidate.start_method):
        context = torch.multiprocessing.get_context(candidate.start_method)
    return settings | {
        "prefetch_factor": candidate.prefetch or DEFAULT_PREFETCH,
        "persistent_workers": bool(candidate.persistent),
        "timeout": loader.timeout,
        "multiprocessing_context": context,
    }


def _arguments_of_subclass(loader: DataLoader[Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for the constructor of a subclass.

    Raises:
        UserError: it has an argument whose value is unknown, or lacks one of the settings.
    """
    name = type(loader).__name__
    parameters = inspect.signature(type(loader)).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    own: dict[str, Any] = {}
    for parameter in parameters.values():
        if parameter.name in DATALOADER_ARGUMENTS or parameter.kind in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            continue
        if parameter.name not in vars(loader):
            raise UserError(
                f"loader: {name} cannot be built again: it does not keep its argument {parameter.name}. {FORM}"
            )
        own[parameter.name] = vars(loader)[parameter.name]
    if "shuffle" in parameters:
        takes_sampler = takes_all or "sampler" in parameters or "batch_sampler" in arguments
        own["shuffle"] = not takes_sampler and isinstance(loader.sampler, RandomSampler)
    if takes_all:
        return {**arguments, **own}
    defaults = {key: entry.default for key, entry in inspect.signature(DataLoader.__init__).parameters.items()}
    for key, value in arguments.items():
        needed = key in ("num_workers", "prefetch_factor", "pin_memory", "persistent_workers") or value != defaults[key]
        if key not in parameters and needed and not _made_inside(loader, key):
            raise UserError(f"loader: {name} cannot be built again: its constructor has no argument {key}. {FORM}")
    return {key: value for key, value in arguments.items() if key in parameters} | own


def _made_inside(loader: DataLoader[Any], name: str) -> bool:
    """Whether a subclass without this argument sets it itself, so that it will do so again."""
    return name in ("collate_fn", "worker_init_fn", "generator", "sampler", "batch_sampler", "dataset")


def _changed(loader: DataLoader[Any], again: DataLoader[Any]) -> str:
    """How the batches of a loader that was built again differ from those of the first one; empty if nothing shows that they do."""
    for name, value in _batches(loader).items():
        if (other := _batches(again)[name]) != value:
            return f"{name} {other} instead of {value}"
    return ""


def _batches(loader: DataLoader[Any]) -> dict[str, object]:
    """What can be read of the batches of a loader."""
    sampler, batch_sampler = loader.sampler, loader.batch_sampler
    length: int | str = "unknown"
    with suppress(Exception):  # a data set or a sampler of the user's that has no length
        length = len(loader)
    return {
        "batch_size": loader.batch_size,
        "drop_last": loader.drop_last,
        "sampler": type(sampler).__name__,
        "replacement": getattr(sampler, "replacement", None),
        "batch_sampler": type(batch_sampler).__name__,
        "batches of": getattr(batch_sampler, "batch_size", None),
        "length": length,
    }


# ---- the end of an epoch ----------------------------------------------------------------------------------------------


class First:
    """The first entries of a sampler, so that an epoch ends early. The sampler itself stays as it is."""

    def __init__(self, sampler: Iterable[Any], number: int) -> None:
        self._sampler, self._number = sampler, number

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self._sampler), self._number)

    def __len__(self) -> int:
        length: int = len(self._sampler)  # type: ignore[arg-type]  # the sampler of the user has one, or raises TypeError
        return min(self._number, length)


def limited(loader: Iterable[Any], epoch_steps: int | None) -> Iterable[Any]:
    """The loader with epochs of at most so many batches, if it is a DataLoader whose samples a sampler chooses. Epochs of other loaders
    are ended from outside."""
    if epoch_steps is None or type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return loader
    return rebuilt(loader, candidate_of(loader), epoch_steps)


def ends_itself(loader: Iterable[Any], epoch_steps: int | None) -> bool:
    """Whether an epoch of a loader that `LoaderSource.build` returned ends after ``epoch_steps`` batches without being stopped."""
    if epoch_steps is None:
        return True
    sampler = getattr(loader, "batch_sampler", None)
    return isinstance(sampler if sampler is not None else getattr(loader, "sampler", None), First)


# ---- the function form ------------------------------------------------------------------------------------------------


def _ignored(loader: DataLoader[Any], arguments: Mapping[str, Any]) -> str:
    """The first setting that the DataLoader of a function does not have, as a clause; empty if it has all of them."""
    for name in GIVEN:
        given, used = arguments[name], getattr(loader, name)
        if given != used:
            return f"{name}={given}, but its DataLoader has {name}={used}"
    return ""


def _takes(function: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    """Whether a function can be called with these keywords."""
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__name__)
