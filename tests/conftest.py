"""Hypothesis is derandomized: the same cases on every machine."""
from hypothesis import settings

settings.register_profile("fxsim", derandomize=True, deadline=None, database=None, max_examples=200)
settings.load_profile("fxsim")
