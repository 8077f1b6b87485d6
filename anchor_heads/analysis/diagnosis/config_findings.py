"""Learning rate, schedule and input that do not go with each other or with the data."""

import numpy as np

from anchor_heads.analysis.diagnosis.finding import ERROR, NOTE, WARNING, Case, Finding, Suggestion
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


def learning_rate(case: Case) -> Finding | None:
    """A learning rate that does not go with the batch."""
    solver = case.cfg.SOLVER
    if solver.OPTIMIZER != "SGD":
        return _adamw_rate(solver)
    reference = ONE_STAGE_RATE if case.kind.one_stage else TWO_STAGE_RATE
    expected = reference * solver.IMS_PER_BATCH / REFERENCE_BATCH
    ratio = solver.BASE_LR / expected
    if 1 / RATE_TOLERANCE <= round(ratio, 6) <= RATE_TOLERANCE:
        return None
    risk = "training may diverge" if ratio > 1 else "it learns slowly"
    return Finding(
        WARNING if ratio > 1 else NOTE,
        f"SOLVER.BASE_LR is {solver.BASE_LR:g} for {solver.IMS_PER_BATCH} images, {ratio:.3g} "
        f"times what is in proportion to {reference:g} for {REFERENCE_BATCH}: {risk}.",
        {"rate": solver.BASE_LR, "ratio": ratio},
        Suggestion({"SOLVER.BASE_LR": float(f"{expected:.3g}")}),
    )


def _adamw_rate(solver):
    if solver.BASE_LR <= MAX_ADAMW_RATE:
        return None
    return Finding(
        WARNING,
        f"SOLVER.BASE_LR is {solver.BASE_LR:g}, a rate for SGD; with {solver.OPTIMIZER} training "
        "may diverge.",
        {"rate": solver.BASE_LR},
        Suggestion({"SOLVER.BASE_LR": 0.0001}),
    )


def few_epochs(case: Case) -> Finding | None:
    """A schedule that sees each image a few times only."""
    epochs = _epochs(case)
    if epochs >= FEW_EPOCHS:
        return None
    return Finding(
        WARNING,
        f"Each of the {case.data.num_images} images is seen {epochs:.2g} times, in the published "
        f"1x schedule {USUAL_EPOCHS} times: training ends early.",
        {"epochs": epochs},
        _schedule(case),
    )


def many_epochs(case: Case) -> Finding | None:
    """A schedule made for a far larger data set."""
    epochs = _epochs(case)
    if epochs <= MANY_EPOCHS or case.cfg.SOLVER.MAX_ITER <= ENOUGH_ITERATIONS:
        return None
    return Finding(
        WARNING,
        f"Each of the {case.data.num_images} images is seen {epochs:.0f} times: the schedule is "
        "for a larger data set.",
        {"epochs": epochs},
        _schedule(case),
    )


def steps_after_end(case: Case) -> Finding | None:
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


def long_warmup(case: Case) -> Finding | None:
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


def size_at_test(case: Case) -> Finding | None:
    """Images of another size at test time than in training."""
    cfg_input = case.cfg.INPUT
    sides, at_test = cfg_input.MIN_SIZE_TRAIN, cfg_input.MIN_SIZE_TEST
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


def channel_order(case: Case) -> Finding | None:
    """ImageNet's means in the order of other channels."""
    mean, is_rgb = np.array(case.cfg.MODEL.PIXEL_MEAN), case.cfg.INPUT.FORMAT == "RGB"
    swapped = IMAGE_NET_BGR if is_rgb else IMAGE_NET_BGR[::-1]
    if len(mean) != 3 or np.abs(mean - swapped).max() > MEAN_TOLERANCE:
        return None
    changes = {
        f"MODEL.PIXEL_{name}": list(case.cfg.MODEL[f"PIXEL_{name}"])[::-1]
        for name in ("MEAN", "STD")
    }
    return Finding(
        WARNING,
        f"INPUT.FORMAT is {case.cfg.INPUT.FORMAT}, but MODEL.PIXEL_MEAN has ImageNet's means in "
        "the other order: colours are shifted.",
        {},
        Suggestion(changes),
    )


def frozen_random_layers(case: Case) -> Finding | None:
    """Training from scratch with layers that cannot learn."""
    model = case.cfg.MODEL
    frozen = model.BACKBONE.FREEZE_AT
    if model.WEIGHTS or frozen == 0 or is_pretrained_by_timm(case.cfg):
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


def _epochs(case):
    solver = case.cfg.SOLVER
    return solver.MAX_ITER * solver.IMS_PER_BATCH / max(1, case.data.num_images)


def _better_length(case):
    """The iterations that :func:`few_epochs` or :func:`many_epochs` suggests, or the present."""
    present, epochs = case.cfg.SOLVER.MAX_ITER, _epochs(case)
    if epochs < FEW_EPOCHS:
        return round(USUAL_EPOCHS * present / epochs)
    if epochs > MANY_EPOCHS and present > ENOUGH_ITERATIONS:
        return max(round(LONG_EPOCHS * present / epochs), ENOUGH_ITERATIONS)
    return present


def _schedule(case):
    """The better length, with the rate dropping at the same shares of it."""
    solver, iterations = case.cfg.SOLVER, _better_length(case)
    changes = {"SOLVER.MAX_ITER": iterations}
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        shares = [step / solver.MAX_ITER for step in solver.STEPS if step < solver.MAX_ITER]
        changes["SOLVER.STEPS"] = tuple(int(x * iterations) for x in shares or USUAL_STEPS)
    return Suggestion(changes)
