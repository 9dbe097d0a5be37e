"""What a person runs: each module composes its configuration and calls loaderlab."""
