"""From the command line to a typed configuration. The entry points under ``experiments/`` call `loaderlab.cli.main.main`.

Only this package and the sweep's launcher (``hydra_plugins``) import Hydra. Nothing is imported here, so that
`loaderlab.cli.platforms` stays light.
"""
