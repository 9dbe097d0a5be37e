"""What the benchmarks are made of: measurements and rules. Each command is a file of ``benchmarks/``."""
