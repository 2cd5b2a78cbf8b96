"""What may be wanted of a file within a budget. Nothing heavy is imported."""

GOALS = ("accuracy", "speed", "size", "memory")
