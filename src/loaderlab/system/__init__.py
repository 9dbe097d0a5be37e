"""The machine, the processes and the terminal. Does not import torch."""
