"""Computes starvation from a PyTorch profiler trace of any program: file, events, intervals, verdict."""
