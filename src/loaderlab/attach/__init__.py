"""The meter in programs that are not ours."""
