"""Where Hydra looks for launchers: it takes none from outside this namespace package. The code is in `loaderlab.sweep`."""

from loaderlab.sweep import SweepLauncher


class LoaderlabLauncher(SweepLauncher):
    """hydra/launcher=loaderlab"""
