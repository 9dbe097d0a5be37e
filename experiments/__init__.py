"""The commands of a checkout. Each module starts the command of ``loaderlab`` with the same name."""
