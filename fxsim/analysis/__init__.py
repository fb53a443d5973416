"""Formats from a float run: statistics, criteria, the assignment, its mismatch and costs."""
