"""Everything that only a GPU can show, part by part, and the page of results that it makes: ``python -m benchmarks.gpu_acceptance``."""
