"""A module whose import queries NVML."""

import pynvml

pynvml.nvmlInit()
