"""What in a config will hurt with its training data, found without training.

:func:`diagnose` looks at a :class:`DiagnosisInput`, the config with its training data and its
anchors, and lists each :class:`Finding` with its numbers and a :class:`Suggestion`.
"""

from anchor_heads.analysis.diagnosis.diagnosis_input import DiagnosisInput
from anchor_heads.analysis.diagnosis.findings import Finding
from anchor_heads.analysis.diagnosis.report import Diagnosis, diagnose
from anchor_heads.analysis.diagnosis.suggestions import Suggestion

__all__ = ["DiagnosisInput", "Diagnosis", "Finding", "Suggestion", "diagnose"]
