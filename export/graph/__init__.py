"""From a committee to an ONNX graph: tracing, rewriting, half precision, and the file."""
