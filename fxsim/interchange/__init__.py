"""Networks from other tools, and for them."""

from fxsim.interchange.onnx_import import Imported, from_onnx

__all__ = ["Imported", "from_onnx"]
