"""What was measured, as points, fronts, verdicts, a choice and a report."""
