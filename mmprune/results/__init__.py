"""Results of measurements: points, fronts, verdicts, a choice and a report."""
