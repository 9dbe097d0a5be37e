"""The tuner: the cheapest settings of a loader that keep the device fed."""
