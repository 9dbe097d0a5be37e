"""Optional packages: which extra of this package installs each, and the message if one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from loaderlab.config import INSTALLED, UserError

EXTRAS = {  # module: package, extra
    "hydra": ("hydra-core", "suite"),
    "omegaconf": ("omegaconf", "suite"),
    "mlflow": ("mlflow", "suite"),
    "matplotlib": ("matplotlib", "suite"),
    "jinja2": ("jinja2", "suite"),
    "filelock": ("filelock", "suite"),
    "yaml": ("PyYAML", "suite"),
    "PIL": ("pillow", "suite"),
    "torchvision": ("torchvision", "suite"),
    "torchcodec": ("torchcodec", "suite"),
    "timm": ("timm", "suite"),
    "sklearn": ("scikit-learn", "suite"),
    "pynvml": ("nvidia-ml-py", "suite"),
    "psycopg": ("psycopg", "server"),
    "nvidia.dali": ("nvidia-dali-cuda120", "dali"),
    "spdl": ("spdl", "spdl"),
    "transformers": ("transformers", "hf"),
    "accelerate": ("accelerate", "hf"),
    "lightning": ("lightning", "lightning"),
    "submitit": ("submitit", "slurm"),
    "pyinstrument": ("pyinstrument", "profile"),
}


class MissingPackage(UserError):
    """A package of an extra is not installed."""


def require(what: str, *modules: str) -> None:
    """Checks that modules of an extra are installed, without importing them.

    Args:
        what: needs them, for the message: ``loaderlab train``.
        modules: keys of `EXTRAS`.

    Raises:
        MissingPackage: names the first package that is missing and the extra that installs it.
    """
    for module in modules:
        if not _installed(module):
            raise MissingPackage(missing(what, module))


def missing(what: str, module: str) -> str:
    """The message if a module of an extra is missing; empty if no extra installs it.

    Args:
        what: needs it.
        module: as in `ImportError.name`: ``hydra.errors``, ``timm``.
    """
    known = next((name for name in EXTRAS if f"{module}.".startswith(f"{name}.")), None)
    if known is None:
        return ""
    package, extra = EXTRAS[known]
    return f"{what} needs {package}, which is not installed. Type: {how_to_install(extra)}"


def how_to_install(extra: str) -> str:
    """The command that installs an extra: of the wheel, or of the checkout in which it is typed."""
    return f"pip install 'loaderlab[{extra}]'" if INSTALLED else f"pip install --editable '.[{extra}]'"


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the parent of a dotted name
        return False
