"""What the run might have been: the step without a loader, the loader without a step, both side by side."""
