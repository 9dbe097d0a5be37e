"""Training programs as users write them, with planted times and their own clock. ``benchmarks.watch_truths`` runs them."""
