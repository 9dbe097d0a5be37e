"""Worked examples of `docs/any_task.md`: each has a dataset, a model and a training step of its own. The data are generated."""
