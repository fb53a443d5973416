"""Kernels on whole tensors, one element or one channel at a time."""
