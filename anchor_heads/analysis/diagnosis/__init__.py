"""What in a config will hurt with its training data, found without training.

A finding is a function that looks at a :class:`DiagnosisInput`, the config with its training data
and its anchors, and returns a :class:`Finding` or None.
"""

from anchor_heads.analysis.diagnosis.finding import DiagnosisInput, Finding, Suggestion
from anchor_heads.analysis.diagnosis.report import FINDINGS, Diagnosis, diagnose

__all__ = ["FINDINGS", "DiagnosisInput", "Diagnosis", "Finding", "Suggestion", "diagnose"]
