"""Golden vectors of training steps.

Captured, written, compared with a device's dump, and mismatches explained.
"""
