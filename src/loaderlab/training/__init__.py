"""The loop, and what it trains: model, optimizer, precision, checkpoint."""
