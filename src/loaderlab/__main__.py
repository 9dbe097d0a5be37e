"""``python -m loaderlab``: the same program as the console script ``loaderlab``."""

from loaderlab.cli.entry import entry

if __name__ == "__main__":
    entry()
