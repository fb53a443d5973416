"""Networks to and from the files of other tools."""

from fxsim.interchange.onnx_export import to_onnx
from fxsim.interchange.qonnx_export import to_qonnx

__all__ = ["to_onnx", "to_qonnx"]
