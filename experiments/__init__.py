"""The commands of a checkout: each module starts the command of ``loaderlab`` with the same name. `examples` has tasks to train."""
