"""Learning rate, schedule and input that do not go with each other or with the data."""

import numpy as np

from anchor_heads.analysis.diagnosis.finding import (
    ERROR,
    NOTE,
    WARNING,
    DiagnosisInput,
    Finding,
    Suggestion,
)
from anchor_heads.analysis.diagnosis.training_data import short_side
from anchor_heads.modeling.timm_backbone import is_pretrained_by_timm

# SGD's rates of configs/Base-RetinaNet.yaml and Base-RCNN-FPN.yaml, for a batch of 16.
REFERENCE_BATCH = 16
ONE_STAGE_RATE, TWO_STAGE_RATE = 0.01, 0.02
# A rate within this factor of the rule is as good.
RATE_TOLERANCE = 2
# AdamW diverges at SGD's rates; its own are 1e-4 to 1e-3.
MAX_ADAMW_RATE = 0.002
# Of schedules: the published 1x has 12 epochs; from-scratch training of small data sets may have
# hundreds, and a few thousand iterations are needed however small the data set is.
FEW_EPOCHS, USUAL_EPOCHS = 3, 12
MANY_EPOCHS, LONG_EPOCHS, ENOUGH_ITERATIONS = 300, 100, 5000
# After these shares of the schedule the rate drops.
USUAL_STEPS = (2 / 3, 8 / 9)
WARMUP_SHARE = 0.5
# Objects that look so much larger or smaller at test time are objects of another size.
SIZE_TOLERANCE = 1.25
# Means of ImageNet's pixels, blue, green and red, and how far a config's may be from them.
IMAGE_NET_BGR, MEAN_TOLERANCE = (103.5, 116.3, 123.7), 2


def learning_rate(case: DiagnosisInput) -> Finding | None:
    """A learning rate that does not go with the batch, or with AdamW."""
    solver, rate = case.cfg.SOLVER, case.cfg.SOLVER.BASE_LR
    if solver.OPTIMIZER != "SGD":
        if rate <= MAX_ADAMW_RATE:
            return None
        sentence = f"a rate for SGD; with {solver.OPTIMIZER} training may diverge."
        severity, expected, numbers = WARNING, 0.0001, {"rate": rate}
    else:
        reference = ONE_STAGE_RATE if case.one_stage else TWO_STAGE_RATE
        expected = reference * solver.IMS_PER_BATCH / REFERENCE_BATCH
        ratio = rate / expected
        if 1 / RATE_TOLERANCE <= round(ratio, 6) <= RATE_TOLERANCE:
            return None
        severity = WARNING if ratio > 1 else NOTE
        risk = "training may diverge" if ratio > 1 else "it learns slowly"
        sentence = (
            f"for {solver.IMS_PER_BATCH} images {ratio:.3g} times what is in proportion to "
            f"{reference:g} for {REFERENCE_BATCH}: {risk}."
        )
        numbers = {"rate": rate, "ratio": ratio}
    suggestion = Suggestion({"SOLVER.BASE_LR": float(f"{expected:.3g}")})
    return Finding(severity, f"SOLVER.BASE_LR is {rate:g}, {sentence}", numbers, suggestion)


def few_epochs(case: DiagnosisInput) -> Finding | None:
    """A schedule that sees each image a few times only."""
    if _epochs(case) >= FEW_EPOCHS:
        return None
    seen = f"{_epochs(case):.2g} times, in the published 1x schedule {USUAL_EPOCHS} times"
    return _schedule(case, f"{seen}: training ends early.")


def many_epochs(case: DiagnosisInput) -> Finding | None:
    """A schedule made for a far larger data set."""
    if _epochs(case) <= MANY_EPOCHS or case.cfg.SOLVER.MAX_ITER <= ENOUGH_ITERATIONS:
        return None
    return _schedule(case, f"{_epochs(case):.0f} times: the schedule is for a larger data set.")


def steps_after_end(case: DiagnosisInput) -> Finding | None:
    """A learning rate that never drops."""
    solver = case.cfg.SOLVER
    steps = [step for step in solver.STEPS if step < solver.MAX_ITER]
    if solver.LR_SCHEDULER_NAME != "WarmupMultiStepLR" or steps:
        return None
    return Finding(
        WARNING,
        f"{len(steps)} of the SOLVER.STEPS {tuple(solver.STEPS)} are before SOLVER.MAX_ITER "
        f"{solver.MAX_ITER}: the learning rate never drops, which costs some AP.",
        {"steps": len(steps), "iterations": solver.MAX_ITER},
        Suggestion({"SOLVER.STEPS": tuple(int(x * _better_length(case)) for x in USUAL_STEPS)}),
    )


def long_warmup(case: DiagnosisInput) -> Finding | None:
    """A warm-up that takes most of the training."""
    warmup, iterations = case.cfg.SOLVER.WARMUP_ITERS, case.cfg.SOLVER.MAX_ITER
    if warmup <= WARMUP_SHARE * iterations:
        return None
    return Finding(
        WARNING,
        f"{warmup} of {iterations} iterations ({100 * warmup / iterations:.0f} %) are warm-up: the "
        "learning rate is hardly ever reached.",
        {"warmup": warmup, "iterations": iterations},
        Suggestion({"SOLVER.WARMUP_ITERS": max(1, _better_length(case) // 20)}),
    )


def size_at_test(case: DiagnosisInput) -> Finding | None:
    """Images of another size at test time than in training."""
    sides, at_test = case.cfg.INPUT.MIN_SIZE_TRAIN, case.cfg.INPUT.MIN_SIZE_TEST
    if 0 in (at_test, *sides):  # not resized
        return None
    nearest = min(max(at_test, min(sides)), max(sides))
    ratio = at_test / nearest
    if 1 / SIZE_TOLERANCE <= ratio <= SIZE_TOLERANCE:
        return None
    return Finding(
        WARNING,
        f"Images have a short side of {at_test} pixels at test time and of {nearest} in training: "
        f"objects look {ratio:.2g} times as large.",
        {"test": at_test, "train": nearest},
        Suggestion({"INPUT.MIN_SIZE_TEST": short_side(case.cfg)}),
    )


def channel_order(case: DiagnosisInput) -> Finding | None:
    """ImageNet's means in the order of other channels."""
    model, order = case.cfg.MODEL, case.cfg.INPUT.FORMAT
    swapped = IMAGE_NET_BGR if order == "RGB" else IMAGE_NET_BGR[::-1]
    mean = np.array(model.PIXEL_MEAN)
    if len(mean) != 3 or np.abs(mean - swapped).max() > MEAN_TOLERANCE:
        return None
    keys = ("PIXEL_MEAN", "PIXEL_STD")
    return Finding(
        WARNING,
        f"INPUT.FORMAT is {order}, but MODEL.PIXEL_MEAN has ImageNet's means in the other order: "
        "colours are shifted.",
        {},
        Suggestion({f"MODEL.{key}": list(model[key])[::-1] for key in keys}),
    )


def frozen_random_layers(case: DiagnosisInput) -> Finding | None:
    """Training from scratch with layers that cannot learn."""
    frozen = case.cfg.MODEL.BACKBONE.FREEZE_AT
    if case.cfg.MODEL.WEIGHTS or frozen == 0 or is_pretrained_by_timm(case.cfg):
        return None
    return Finding(
        ERROR,
        f"The first {frozen} stages of the backbone are frozen, and MODEL.WEIGHTS is empty: they "
        "stay random.",
        {"stages": frozen},
        Suggestion({"MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.RESNETS.NORM": "BN"}),
    )


CONFIG_FINDINGS = (
    learning_rate,
    few_epochs,
    many_epochs,
    steps_after_end,
    long_warmup,
    size_at_test,
    channel_order,
    frozen_random_layers,
)


def _epochs(case) -> float:
    solver = case.cfg.SOLVER
    return solver.MAX_ITER * solver.IMS_PER_BATCH / max(1, case.data.num_images)


def _better_length(case) -> int:
    """Iterations: the present ones, unless the epochs are too few or far too many."""
    present, epochs = case.cfg.SOLVER.MAX_ITER, _epochs(case)
    if epochs < FEW_EPOCHS:
        return round(USUAL_EPOCHS * present / epochs)
    if epochs > MANY_EPOCHS and present > ENOUGH_ITERATIONS:
        return max(round(LONG_EPOCHS * present / epochs), ENOUGH_ITERATIONS)
    return present


def _schedule(case, seen) -> Finding:
    """The better length, with the rate dropping at the same shares of it."""
    solver, iterations = case.cfg.SOLVER, _better_length(case)
    changes = {"SOLVER.MAX_ITER": iterations}
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        shares = [step / solver.MAX_ITER for step in solver.STEPS if step < solver.MAX_ITER]
        changes["SOLVER.STEPS"] = tuple(int(x * iterations) for x in shares or USUAL_STEPS)
    sentence = f"Each of the {case.data.num_images} images is seen {seen}"
    return Finding(WARNING, sentence, {"epochs": _epochs(case)}, Suggestion(changes))
