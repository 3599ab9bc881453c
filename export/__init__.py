"""An ensemble as one ONNX graph, ONNX Runtime sessions that run it, and servers.

from export.runtime import open_session
session = open_session("model.onnx")
probs = session.run(images)  # uint8 [N, H, W, 3] -> float32 [N, C]
"""
