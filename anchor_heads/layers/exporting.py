"""Whether the model is being exported: the one place that decides between eager code and operators
that another runtime can have."""

import torch


def is_exporting() -> bool:
    """Whether the operations are recorded for another runtime: ONNX, TorchScript, torch.export.

    What is faster in eager PyTorch but has no place in a recorded graph (Python functions, loops
    whose length follows the input) then makes way for operators.
    """
    return torch.jit.is_tracing() or torch.compiler.is_exporting()
