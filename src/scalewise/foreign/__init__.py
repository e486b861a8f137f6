"""Networks that are not ours: weight files that spandrel knows, and ONNX files."""
