"""Runs all measurements that need a GPU, in parts, and writes the page of results: ``python -m benchmarks.gpu_acceptance``."""
