"""Networks as data, their formats, and the executors in fixed and floating point."""
