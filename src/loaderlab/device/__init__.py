"""What a step runs on, and its clock."""
