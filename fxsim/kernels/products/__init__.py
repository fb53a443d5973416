"""Exact products: matrix products and convolutions, one module for each instruction path."""
