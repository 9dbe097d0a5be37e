"""Measures where a step's time goes: clocks, the five phases of each step, and the metrics computed from them."""
