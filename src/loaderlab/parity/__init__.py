"""Checks that a loader does the same work as the reference: same samples, order, pixels and random draws."""
