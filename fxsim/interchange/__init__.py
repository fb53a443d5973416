"""Networks from the files of other tools, and for them."""

from fxsim.interchange.onnx_export import to_onnx
from fxsim.interchange.onnx_import import Imported, from_onnx
from fxsim.interchange.qonnx_export import to_qonnx

__all__ = ["Imported", "from_onnx", "to_onnx", "to_qonnx"]
