"""All findings about a config and its training data, as text and for JSON."""

import shlex
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode

from anchor_heads.analysis.diagnosis.anchor_findings import ANCHOR_FINDINGS
from anchor_heads.analysis.diagnosis.config_findings import CONFIG_FINDINGS
from anchor_heads.analysis.diagnosis.data_findings import DATA_FINDINGS
from anchor_heads.analysis.diagnosis.finding import ERROR, NOTE, WARNING, DiagnosisInput, Finding
from anchor_heads.analysis.diagnosis.training_data import short_side

# Each looks at a case and returns a Finding or None. To add one, add it to its module's tuple.
FINDINGS: tuple[Callable[[DiagnosisInput], Finding | None], ...] = (
    *DATA_FINDINGS,
    *ANCHOR_FINDINGS,
    *CONFIG_FINDINGS,
)
SEVERITIES = (ERROR, WARNING, NOTE)
WIDTH = 100


@dataclass(frozen=True)
class Diagnosis:
    """What was looked at and what was found."""

    case: DiagnosisInput
    findings: dict[str, Finding]
    """By the name of the function that found it; errors first, then warnings, then notes."""

    def __str__(self) -> str:
        parts = [*map(_paragraph, _summary(self.case)), ""]
        for finding in self.findings.values():
            parts += [*_lines(finding), ""]
        counts = Counter(finding.severity for finding in self.findings.values())
        named = ", ".join(f"{severity}s: {counts[severity]}" for severity in SEVERITIES)
        parts.append(f"{named}." if self.findings else "Nothing was found that will hurt.")
        if self.recipe:
            values = " ".join(f"{key}{_pasteable(value)}" for key, value in self.recipe.items())
            parts += ["", "All values together, to be pasted behind a command:", values]
        return "\n".join(parts)

    @property
    def recipe(self) -> dict[str, object]:
        """The suggested values of config keys together. Of suggestions for the same key the first
        is taken, as a whole: what another suggests does not fit it."""
        recipe = {}
        for finding in self.findings.values():
            changes = finding.suggestion.changes
            if None not in changes.values() and not set(changes) & set(recipe):
                recipe |= changes
        return recipe

    def to_json(self) -> dict:
        """The same for ``json.dump``: "summary" (list of sentences), "recipe", and "findings"
        (list), each with "name", "severity", "sentence", "numbers", "changes" and "effect"."""
        return {
            "summary": _summary(self.case),
            "recipe": self.recipe,
            "findings": [
                {
                    "name": name,
                    "severity": finding.severity,
                    "sentence": finding.sentence,
                    "numbers": dict(finding.numbers),
                    "changes": dict(finding.suggestion.changes),
                    "effect": finding.suggestion.effect,
                }
                for name, finding in self.findings.items()
            ],
        }


def diagnose(cfg: CfgNode) -> Diagnosis:
    """Look at a config and its training data for what will hurt. No model is built.

    Args:
        cfg (CfgNode): the full config; reads the annotations of ``DATASETS.TRAIN``.

    Raises:
        ValueError, FileNotFoundError: if the data sets cannot be read.
    """
    case = DiagnosisInput.from_config(cfg)
    found = {function.__name__: function(case) for function in FINDINGS}
    found = [(name, finding) for name, finding in found.items() if finding is not None]
    found.sort(key=lambda item: SEVERITIES.index(item[1].severity))
    return Diagnosis(case, dict(found))


def _summary(case) -> list[str]:
    data, cfg = case.data, case.cfg
    return [
        f"Training data: {', '.join(cfg.DATASETS.TRAIN)}, {data.num_images} images with "
        f"{len(data.objects)} objects of {len(data.class_names)} classes.",
        _input_sentence(cfg, data.objects.sizes),
        _anchor_sentence(case),
    ]


def _input_sentence(cfg, sizes):
    side, limit = short_side(cfg), cfg.INPUT.MAX_SIZE_TRAIN
    middle = (
        ", the middle of INPUT.MIN_SIZE_TRAIN" if len(set(cfg.INPUT.MIN_SIZE_TRAIN)) > 1 else ""
    )
    frame = f"with a short side of {side}{middle}, and a long one of at most {limit}"
    cropped = "; random crops (INPUT.CROP) are left aside" if cfg.INPUT.CROP.ENABLED else ""
    parts = [f"Pixels are those of the network's input: images {frame if side else 'as they are'}"]
    if len(sizes):
        least, median, most = np.quantile(sizes, [0.01, 0.5, 0.99])
        parts.append(
            f"objects of {least:.0f} to {most:.0f} pixels (square root of area; 1 % are smaller, "
            f"1 % larger), {median:.0f} in the median"
        )
    return "; ".join(parts) + cropped + "."


def _anchor_sentence(case):
    if case.anchors is None:
        return "Anchors: the model has none that could be diagnosed."
    sizes = [size for level in case.anchors.sizes for size in level]
    owner = type(case.strategy.owner).__name__
    levels, strides = (", ".join(map(str, x)) for x in (case.anchors.levels, case.anchors.strides))
    return (
        f"Anchors: {owner} on {levels} (strides {strides}), sizes from {min(sizes):g} to "
        f"{max(sizes):g}."
    )


def _lines(finding) -> list[str]:
    indent = " " * (max(map(len, SEVERITIES)) + 2)
    lines = [_paragraph(finding.severity.ljust(len(indent)) + finding.sentence, indent)]
    for key, value in finding.suggestion.changes.items():
        lines.append(f"{indent}-> {key}{_pasteable(value)}")
    if finding.suggestion.effect:
        lines.append(_paragraph(indent + finding.suggestion.effect, indent))
    return lines


def _pasteable(value) -> str:
    """The value as the command line takes it, after a space; nothing for None."""
    return "" if value is None else " " + shlex.quote(str(value).replace("'", '"'))


def _paragraph(text, indent=""):
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False)
