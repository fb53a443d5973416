"""Convolutions of random geometries against ONNX Runtime in float32 and PyTorch in float64, which are
exact for integers below 2^24 and 2^53; and TensorFlow's rule for 'same'.
"""

import math

import numpy as np
import pytest
from support import grouped_cases

from fxsim import ops
from fxsim.windows import Window

GEOMETRIES = 200


def random_cases():
    """Geometries with any kernel, stride, dilation, uneven padding and groups."""
    rng = np.random.default_rng(53)
    for _ in range(GEOMETRIES):
        yield grouped_cases.random_case(rng, groups=int(rng.choice([1, 1, 2, 3, 4, 6, 9])))


def products(x, w, g, window, groups):
    """The exact sums of the three products."""
    where = grouped_cases.geometry_of(window, groups)
    return (
        ops.conv2d(x, w, **where).tensor().codes,
        ops.conv2d_input_grad(g, w, x.shape, **where).tensor().codes,
        ops.conv2d_weight_grad(x, g, w.shape, **where).tensor().codes,
    )


def check(got, wanted, what, digits=53):
    assert np.abs(wanted).max() < 2**digits
    np.testing.assert_array_equal(got, wanted, what)


def test_forward_equals_onnxruntime():
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    helper = pytest.importorskip("onnx.helper", reason="onnx is not installed")
    single = 1
    for x, w, _, window, groups in random_cases():
        top, bottom, left, right = window.padding
        node = helper.make_node(
            "Conv",
            ["x", "w"],
            ["y"],
            strides=window.stride,
            dilations=window.dilation,
            pads=[top, left, bottom, right],
            group=groups,
        )
        inputs = [helper.make_tensor_value_info(name, single, [None] * 4) for name in "xw"]
        outputs = [helper.make_tensor_value_info("y", single, [None] * 4)]
        graph = helper.make_graph([node], "one", inputs, outputs)
        opsets = [helper.make_opsetid("", 13)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        run = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        ).run
        images = x.codes.transpose(0, 3, 1, 2).astype(np.float32)
        weights = w.codes.transpose(3, 2, 0, 1).astype(np.float32)
        assert weights[0].size * 2**14 < 2**24
        (wanted,) = run(None, {"x": images, "w": weights})
        where = grouped_cases.geometry_of(window, groups)
        got = ops.conv2d(x, w, **where).tensor().codes
        check(got, wanted.transpose(0, 2, 3, 1), f"{window}, {groups} groups", 24)


def test_all_three_products_equal_float64_by_numpy():
    for x, w, g, window, groups in random_cases():
        arrays = (tensor.codes.astype(np.float64) for tensor in (x, w, g))
        wanted = grouped_cases.reference(*arrays, window, groups)
        for got, sums in zip(products(x, w, g, window, groups), wanted):
            check(got, sums, f"{window}, {groups} groups")


@pytest.mark.slow
def test_all_three_products_equal_pytorch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for x, w, g, window, groups in random_cases():
        images = torch.tensor(x.codes.transpose(0, 3, 1, 2).astype(np.float64), requires_grad=True)
        weights = torch.tensor(w.codes.transpose(3, 2, 0, 1).astype(np.float64), requires_grad=True)
        top, bottom, left, right = window.padding
        padded = torch.nn.functional.pad(images, (left, right, top, bottom))
        found = torch.nn.functional.conv2d(
            padded, weights, stride=window.stride, dilation=window.dilation, groups=groups
        )
        found.backward(torch.tensor(g.codes.transpose(0, 3, 1, 2).astype(np.float64)))
        wanted = (
            found.detach().numpy().transpose(0, 2, 3, 1),
            images.grad.numpy().transpose(0, 2, 3, 1),
            weights.grad.numpy().transpose(2, 3, 1, 0),
        )
        for got, sums in zip(products(x, w, g, window, groups), wanted):
            check(got, sums, f"{window}, {groups} groups")


def test_same_is_tensorflows_formula():
    """tf.nn: ceil(size / stride) positions; max((positions - 1) stride + kernel - size, 0) zeros,
    half of them, rounded down, before.
    """
    for size in range(1, 41):
        for kernel in range(1, 8):
            for stride in range(1, 5):
                positions = math.ceil(size / stride)
                zeros = max((positions - 1) * stride + kernel - size, 0)
                window = Window.of("", (size, 40), (kernel, 1), (stride, 1), "same")
                assert window.padding == (zeros // 2, zeros - zeros // 2, 0, 0)
                assert window.positions((size, 40)) == (positions, 40)
