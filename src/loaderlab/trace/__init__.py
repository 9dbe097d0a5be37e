"""Starvation read from a trace of PyTorch's profiler, of any program: file, events, intervals, verdict."""
