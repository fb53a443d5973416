"""float32 products and activations of the float executor."""
