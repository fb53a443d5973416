"""Forward product, input gradient and weight gradient against ONNX Runtime's ConvInteger and
MatMulInteger.

Right operands have 7 bits: where a processor has no VNNI, ONNX Runtime adds two products of bytes in
an int16 that saturates, which 255 times 64 twice does not reach.
"""

import numpy as np
import pytest
from support.bits import assert_same_codes
from support.conv_cases import by_every_path, sums_of, tensors, unit

onnxruntime = pytest.importorskip(
    "onnxruntime", reason="needs ONNX Runtime (pip install onnxruntime)"
)
onnx = pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")

ZERO = 128
"""Signed codes go in as unsigned ones with this zero point.

ONNX Runtime multiplies unsigned by signed bytes.
"""


def run(operator, left, right, zero, **attributes):
    """int32 result of an operator on (uint8 - zero) and int8 arrays.

    A matrix product takes int8 as uint8 with a zero point: without VNNI, ONNX Runtime's product of
    uint8 by int8 saturates pairs of products to int16.
    """
    helper = onnx.helper
    types = onnx.TensorProto
    inputs = ["left", "right", "zero"]
    zeros = [helper.make_tensor("zero", types.UINT8, [], [zero])]
    right_type = types.INT8
    if operator == "MatMulInteger":
        inputs.append("right_zero")
        zeros.append(helper.make_tensor("right_zero", types.UINT8, [], [ZERO]))
        right = (right.astype(np.int16) + ZERO).astype(np.uint8)
        right_type = types.UINT8
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["out"], **attributes)],
        "products",
        [
            helper.make_tensor_value_info("left", types.UINT8, left.shape),
            helper.make_tensor_value_info("right", right_type, right.shape),
        ],
        [helper.make_tensor_value_info("out", types.INT32, None)],
        zeros,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"left": left, "right": right})[0]


def convolved(source, weights, zero=0, **attributes):
    """(N, H, W, C) codes, zero points included, with (KH, KW, C, O) int8 weights."""
    planes = source.transpose(0, 3, 1, 2)
    filters = weights.transpose(3, 2, 0, 1)
    out = run(
        "ConvInteger",
        np.ascontiguousarray(planes),
        np.ascontiguousarray(filters),
        zero,
        **attributes,
    )
    return out.transpose(0, 2, 3, 1)


def patches(source, kernel, stride, padding, positions):
    """(KH * KW * C, N * OH * OW): what each weight is multiplied with."""
    padded = np.pad(source, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    taps = [
        padded[
            :, ky : ky + stride * positions[0] : stride, kx : kx + stride * positions[1] : stride
        ]
        for ky in range(kernel)
        for kx in range(kernel)
    ]
    return (
        np.stack([tap[:, : positions[0], : positions[1]] for tap in taps])
        .transpose(0, 4, 1, 2, 3)
        .reshape(kernel**2 * source.shape[3], -1)
    )


@pytest.mark.parametrize(
    "kernel, stride, padding", [(3, 1, 1), (3, 2, 1), (2, 1, 0), (1, 1, 0), (5, 3, 2)]
)
@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
def test_all_three_products(kernel, stride, padding, extreme):
    random = np.random.default_rng(kernel)
    x = random.integers(0, 256, (3, 9, 7, 5)).astype(np.uint8)
    w = random.integers(-64, 64, (kernel, kernel, 5, 6)).astype(np.int8)
    if extreme:
        x[:] = 255
        w[:] = -64
    forward = convolved(x, w, strides=[stride, stride], pads=4 * [padding])
    g = random.integers(-64, 64, forward.shape).astype(np.int8)
    if extreme:
        g[:] = -64
    wanted = (
        forward,
        input_grad(g, w, x.shape, stride, padding),
        weight_grad(x, g, kernel, stride, padding),
    )
    given = tensors((x, w, g), (unit(8, False), unit(7), unit(7)))
    for path, got in by_every_path(
        lambda path: sums_of(*given, path, stride=stride, padding=padding)
    ):
        for name, one, other in zip(("forward", "input gradient", "weight gradient"), got, wanted):
            assert_same_codes(one.codes, other, what=f"{name}, {path}")


def weight_grad(x, g, kernel, stride, padding):
    left = patches(x, kernel, stride, padding, g.shape[1:3])
    return run("MatMulInteger", left, g.reshape(-1, g.shape[3]), 0).reshape(
        kernel, kernel, x.shape[3], g.shape[3]
    )


def input_grad(g, w, shape, stride, padding):
    """A convolution of the gradients, `stride` apart, with the kernel turned round."""
    kernel = len(w)
    rows, columns = (side + 2 * padding - kernel + 1 for side in shape[1:3])
    apart = np.full((len(g), rows, columns, g.shape[3]), ZERO, np.uint8)
    apart[:, ::stride, ::stride] = g.astype(np.int64) + ZERO
    turned = w[::-1, ::-1].transpose(0, 1, 3, 2)
    return convolved(apart, turned, ZERO, pads=4 * [kernel - 1 - padding])
