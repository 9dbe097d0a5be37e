"""The device that a step runs on, its capabilities and its clock."""
