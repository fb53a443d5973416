"""Sums in accumulators of limited width, in a stated order."""
