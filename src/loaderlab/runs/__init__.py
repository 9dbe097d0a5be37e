"""One run, from its configuration to its record, and many: the sweep, its jobs and their processes."""
