"""The training loop with its model, optimizer, precision and checkpoint."""
