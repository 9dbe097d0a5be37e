"""One run, from its configuration to its record, and the sweep of many runs: its jobs and their processes."""
