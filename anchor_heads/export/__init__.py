"""Detectors for other runtimes: ONNX, TorchScript, torch.export, torch.compile."""

from .compilation import compile_model
from .formats import SUFFIXES, check_format, describe, export_model
from .runtime import ExportedPredictor, is_exported

__all__ = [
    "SUFFIXES",
    "ExportedPredictor",
    "check_format",
    "compile_model",
    "describe",
    "export_model",
    "is_exported",
]
