"""Operations on tensors of fixed-point codes; each gives an exact result that is rounded once.

Layouts are those of the whole package: images (N, H, W, C), convolution weights (K, K, C, O), dense
weights (I, O).  An operation takes fxsim.Tensors, checks them, and gives an `Exact` (or, where a
division is in it, a `Quotient`), which its `to` rounds:

    >>> from fxsim import Format, Quantizer, Tensor, ops
    >>> x = Tensor([[1, 2], [3, 4]], Format(4, 3))
    >>> ops.matmul(x, x).to(Quantizer(Format(4, 4), "floor")).codes
    array([[3, 5],
           [7, 7]], dtype=int8)

Two laws hold for every operation: `op(...).to(q)` has the codes of `requantize(op(...).tensor(), q)`
for every q; and on exact codes <conv2d(x, w), g> == <x, conv2d_input_grad(g, w)> ==
<w, conv2d_weight_grad(x, g)>.
"""

from fxsim.ops.arithmetic import add, multiply, negative, subtract, sum  # noqa: A004 - as in NumPy
from fxsim.ops.batch_norm import (
    batch_norm,
    batch_norm_frozen,
    batch_norm_grad,
    batch_norm_inference,
    running_statistics,
)
from fxsim.ops.conv import conv2d, conv2d_input_grad, conv2d_weight_grad
from fxsim.ops.dropout import dropout, dropout_grad
from fxsim.ops.exact import MASK, WINNER, Exact, Quotient
from fxsim.ops.leaky_relu import SLOPES, leaky_relu, leaky_relu_grad
from fxsim.ops.lookup import function_table, lookup, output_derivative, table_index
from fxsim.ops.loss import (
    LOSS,
    half_mse,
    half_mse_grad,
    mse,
    mse_grad,
    sigmoid_cross_entropy,
    sigmoid_cross_entropy_grad,
    softmax_cross_entropy,
    softmax_cross_entropy_grad,
)
from fxsim.ops.matmul import dot, linear, matmul
from fxsim.ops.paths import plan
from fxsim.ops.pooling import avg_pool2d, avg_pool2d_grad, max_pool2d, max_pool2d_grad
from fxsim.ops.relu import relu, relu_grad
from fxsim.ops.update import Parameter, UpdateTally, sgd_update

__all__ = [
    "LOSS",
    "MASK",
    "SLOPES",
    "WINNER",
    "Exact",
    "Parameter",
    "Quotient",
    "UpdateTally",
    "add",
    "avg_pool2d",
    "avg_pool2d_grad",
    "batch_norm",
    "batch_norm_frozen",
    "batch_norm_grad",
    "batch_norm_inference",
    "conv2d",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "dot",
    "dropout",
    "dropout_grad",
    "function_table",
    "half_mse",
    "half_mse_grad",
    "leaky_relu",
    "leaky_relu_grad",
    "linear",
    "lookup",
    "matmul",
    "max_pool2d",
    "max_pool2d_grad",
    "mse",
    "mse_grad",
    "multiply",
    "negative",
    "output_derivative",
    "plan",
    "relu",
    "relu_grad",
    "running_statistics",
    "sgd_update",
    "sigmoid_cross_entropy",
    "sigmoid_cross_entropy_grad",
    "softmax_cross_entropy",
    "softmax_cross_entropy_grad",
    "subtract",
    "sum",
    "table_index",
]
