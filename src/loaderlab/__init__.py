"""loaderlab: measures how a PyTorch training run is fed, and what feeding it better would bring."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"  # pyproject.toml reads it from here

if TYPE_CHECKING:
    from loaderlab.attach.lightning_callback import LightningCallback
    from loaderlab.attach.transformers_callback import TransformersCallback
    from loaderlab.attach.watch import watch
    from loaderlab.tuning.user_program import tune

__all__ = ["LightningCallback", "TransformersCallback", "__version__", "tune", "watch"]

_MODULES = {
    "watch": "attach.watch",
    "LightningCallback": "attach.lightning_callback",
    "TransformersCallback": "attach.transformers_callback",
    "tune": "tuning.user_program",
}
_CALLBACKS = ("LightningCallback", "TransformersCallback")


def __getattr__(name: str) -> Any:
    """These bring torch or a framework along, which most of the package does without: they are loaded on use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _CALLBACKS:  # the program may create its loaders before its callback: let them remember where
        import_module("loaderlab.attach.hooks").install()
    return getattr(import_module(f"loaderlab.{_MODULES[name]}"), name)
