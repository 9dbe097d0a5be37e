"""Probes after training: the step without the loader, the loader without the step, and both at the same time."""
