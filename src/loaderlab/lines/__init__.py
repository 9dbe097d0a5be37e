"""Which line of a loader is slow: a sampling profile of one worker, read against the times at which the training waited."""
