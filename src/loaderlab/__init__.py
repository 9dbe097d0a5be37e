"""loaderlab: measures how a PyTorch training run is fed, and what feeding it better would bring."""

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"  # pyproject.toml reads it from here

if TYPE_CHECKING:
    from loaderlab.attach.watch import watch

__all__ = ["__version__", "watch"]


def __getattr__(name: str) -> Any:
    """`watch` brings torch along, which most of the package does without: it is loaded when it is asked for."""
    if name == "watch":
        from loaderlab.attach.watch import watch

        return watch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
