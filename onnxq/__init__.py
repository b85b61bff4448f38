"""onnxq: float ONNX models to quantized ONNX models."""
