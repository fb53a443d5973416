"""What the search for explanations tries, told to people: in `fxsim vectors check --help` and in
guide/golden-vectors.md.
"""

TRIED = {
    "quantization": "every other rounding (a wrong tie), two roundings in a row, a cut before the "
    "rounding; every other overflow (wrap for saturate), a narrower range; 1 or 2 bits too many or "
    "too few dropped",
    "accumulator": "any narrower width that wraps, saturates after every addition or at the end; "
    "the bias first; other orders of the additions, channels first or last, 2 to 32 lanes, tiles, "
    "an adder tree",
    "products": "their last bits cut off before they are added",
    "operands": "sign extension for zero extension and back; 1 or 2 first or last bits lost; no "
    "bias; kernels flipped, weights transposed; weights or bias of the step before, or updated too "
    "early",
    "convolution": "padding on the other side, dilation ignored, groups permuted",
    "layer, loss": "ends of the ReLU's mask; no activation, no ceiling, another slope; a table's "
    "index one too high or low, shifted or rounded, with or without interpolation; the winner of "
    "equal maxima, rounding of averages; no division by the batch or the outputs, another factor "
    "or sign of a squared error, another table of the exponential",
    "batch norm": "roundings of mean, variance, inverse root, x-hat and gradient; no mean, no "
    "beta, no epsilon, another; a variance over one position less; statistics of the images for "
    "running ones; slopes or offsets of the gradient left out",
    "addition": "a residual branch or a gradient left out; gradients rounded before they are added",
    "dropout": "left out, or without its scale",
    "update": "rounding of the update and of the weight, overflow, a narrower accumulator; the "
    "accumulator left out, the update left out or added",
    "random words": "of registers: a tap missing, moved or too many, Galois for Fibonacci, the "
    "other direction; clocked too early or too late, a lane a word ahead; other runs, seeds, "
    "clocks, bits; started anew or not, the words of the step before or after",
    "file": "elements in the order of other axes (channels first or last), the last element first; "
    "the bytes or the bits of every code in the other order",
}
"""Of what -> what is changed, one change at a time."""
NOT_TRIED = (
    "Not tried are batch norm's running statistics after a step and the constants of its gradient."
)
