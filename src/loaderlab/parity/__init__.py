"""Whether a loader does the work it is compared by: same samples, order, pixels and random draws."""
