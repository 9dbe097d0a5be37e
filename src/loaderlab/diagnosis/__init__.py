"""From evidence to a verdict: the grade, the bottleneck, the advice. Pure: no clock, no torch."""
