"""Export of an ensemble as one ONNX graph, and serving it. Nothing is here yet: the graph's contract is in the docs."""
