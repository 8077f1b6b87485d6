"""All findings about a config and its training data, as text and for JSON."""

import shlex
import textwrap
from collections import Counter
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode

from anchor_heads.analysis.diagnosis.diagnosis_input import DiagnosisInput
from anchor_heads.analysis.diagnosis.findings import SEVERITIES, Finding, find
from anchor_heads.analysis.diagnosis.preset_anchors import ASPECT_RATIOS, SIZES
from anchor_heads.analysis.diagnosis.training_data import short_side

WIDTH = 100
IN_PIXELS = {SIZES, "INPUT.MIN_SIZE_TRAIN"}  # sizes are in pixels of the resized image
ANCHOR_KEYS = IN_PIXELS | {ASPECT_RATIOS}
INDENT = " " * (max(map(len, SEVERITIES)) + 2)


@dataclass(frozen=True)
class Diagnosis:
    """What was looked at and what was found."""

    case: DiagnosisInput
    findings: dict[str, Finding]
    """By name; errors first, then warnings, then notes."""

    def __str__(self) -> str:
        lines = [*map(_paragraph, self._summary()), ""]
        for finding in self.findings.values():
            lines.append(_paragraph(finding.severity.ljust(len(INDENT)) + finding.sentence, INDENT))
            for key, value in finding.suggestion.changes.items():
                lines.append(f"{INDENT}-> {key}{_pasteable(value)}")
            if finding.suggestion.effect:
                lines.append(_paragraph(INDENT + finding.suggestion.effect, INDENT))
            lines.append("")
        counts = Counter(finding.severity for finding in self.findings.values())
        counted = ", ".join(f"{severity}s: {counts[severity]}" for severity in SEVERITIES)
        lines.append(f"{counted}." if self.findings else "Nothing was found that will hurt.")
        if self.recipe:
            values = " ".join(f"{key}{_pasteable(value)}" for key, value in self.recipe.items())
            lines += ["", "All values together, to append to a command:", values]
            if self.recipe.keys() & ANCHOR_KEYS:
                lines += ["", "What anchors reach changes with them: run this again with them."]
        return "\n".join(lines)

    @property
    def recipe(self) -> dict[str, object]:
        """The suggested values of config keys together. Of suggestions for the same key, or for
        both the input size and the anchor sizes in its pixels, the first is taken, as a whole: what
        another suggests does not fit it."""
        recipe = {}
        for finding in self.findings.values():
            changes = finding.suggestion.changes
            fits = not any(
                keys & set(changes) and keys & set(recipe) for keys in (set(changes), IN_PIXELS)
            )
            if None not in changes.values() and fits:
                recipe |= changes
        return recipe

    def to_json(self) -> dict:
        """The same for ``json.dump``: "summary" (list of sentences), "recipe", and "findings"
        (list), each with "name", "severity", "sentence", "numbers", "changes" and "effect"."""
        findings = [vars(x) | x.suggestion._asdict() for x in self.findings.values()]
        for finding in findings:
            del finding["suggestion"]
        return {"summary": self._summary(), "recipe": self.recipe, "findings": findings}

    def _summary(self) -> list[str]:
        cfg, data, anchors = self.case.cfg, self.case.data, self.case.anchors
        side, sizes = short_side(cfg), data.objects.sizes
        several = len(set(cfg.INPUT.MIN_SIZE_TRAIN)) > 1
        middle = ", the middle of INPUT.MIN_SIZE_TRAIN" if several else ""
        pixels = f"short side {side}{middle}, long side at most {cfg.INPUT.MAX_SIZE_TRAIN}"
        pixels = [f"Pixels are those of the network's input: {pixels if side else 'not resized'}"]
        if len(sizes):
            least, median, most = np.quantile(sizes, [0.01, 0.5, 0.99])
            pixels.append(
                f"objects of {least:.0f} to {most:.0f} pixels (square root of area; 1 % are "
                f"smaller, 1 % larger), {median:.0f} in the median"
            )
        if cfg.INPUT.CROP.ENABLED:
            pixels.append("random crops (INPUT.CROP) are left aside")
        shapes = "the model has none that could be diagnosed"
        if anchors:
            least, most = min(map(min, anchors.sizes)), max(map(max, anchors.sizes))
            levels = ", ".join(anchors.strategy.in_features)
            strides = ", ".join(map(str, anchors.generator.strides))
            owner = type(anchors.strategy.owner).__name__
            shapes = f"{owner} on {levels} (strides {strides}), sizes from {least:g} to {most:g}"
        return [
            f"Training data: {', '.join(cfg.DATASETS.TRAIN)}, {len(data.image_sizes)} images with "
            f"{len(sizes)} objects of {len(data.class_names)} classes.",
            f"{'; '.join(pixels)}.",
            f"Anchors: {shapes}.",
        ]


def diagnose(cfg: CfgNode) -> Diagnosis:
    """Look at a config and its training data for what will hurt.

    Args:
        cfg (CfgNode): the full config. The annotations of ``DATASETS.TRAIN`` are read, and the
            model is built with random weights.

    Raises:
        ValueError, FileNotFoundError: if the data sets cannot be read.
    """
    case = DiagnosisInput.from_config(cfg)
    return Diagnosis(case, find(case))


def _pasteable(value) -> str:
    """The value as the command line takes it, after a space; nothing for None."""
    return "" if value is None else " " + shlex.quote(str(value).replace("'", '"'))


def _paragraph(text, indent=""):
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False)
