"""The measurements and rules of the benchmarks. Each command is a file of ``benchmarks/``."""
