"""The search for the change of semantics that explains a mismatch."""
