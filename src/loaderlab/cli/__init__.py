"""From the command line to a typed configuration. The console script ``loaderlab`` and the entry points under
``experiments/`` call ``start`` of the module named after the command.

Only this package and the sweep's launcher (``hydra_plugins``) import Hydra. Nothing is imported here, so that
importing `loaderlab.cli.platforms` stays fast.
"""
