"""Model files: checkpoints, the registry of shipped models, int8 calibration and ONNX export.

May import from core, io, config and errors.
"""
