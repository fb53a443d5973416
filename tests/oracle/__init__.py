"""Slow twins of the integer core, written from the numerical contract in unbounded Python integers.

Nothing here imports NumPy or fxsim.  A real value is a `fractions.Fraction`; a format is a tuple
`(bits, range_exp, signed)`; arrays are nested lists, channels last.
"""
