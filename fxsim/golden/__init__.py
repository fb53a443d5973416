"""Golden vectors of training steps: captured, written, compared with a device's dump, and mismatches explained."""
