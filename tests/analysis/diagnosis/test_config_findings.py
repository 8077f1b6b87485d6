import pytest
from made_case import config, made_case, square

from anchor_heads.analysis.diagnosis.config_findings import (
    channel_order,
    few_epochs,
    frozen_random_layers,
    learning_rate,
    long_warmup,
    many_epochs,
    size_at_test,
    steps_after_end,
)


def case_of(*overrides, architecture="RetinaNet", images=100):
    cfg = config(architecture, *overrides)
    return made_case(cfg, *[[square(84, 32)]] * images)


@pytest.mark.parametrize(
    "architecture, reference", [("RetinaNet", 0.01), ("GeneralizedRCNN", 0.02)]
)
def test_learning_rate_in_proportion_to_the_batch(architecture, reference):
    def finding(ratio, batch=4):
        rate = ratio * reference * batch / 16
        overrides = ["SOLVER.IMS_PER_BATCH", batch, "SOLVER.BASE_LR", rate]
        return learning_rate(case_of(*overrides, architecture=architecture))

    assert [finding(ratio) for ratio in (0.5, 1.0, 2.0)] == [None] * 3
    assert finding(1.0, batch=64) is None
    high, low = finding(2.1), finding(0.4)
    assert (high.severity, low.severity) == ("warning", "note")
    assert high.numbers["ratio"] == pytest.approx(2.1)
    assert high.suggestion.changes == {"SOLVER.BASE_LR": reference / 4}
    assert low.suggestion.changes == {"SOLVER.BASE_LR": reference / 4}


def test_adamw_has_rates_of_its_own():
    def finding(rate):
        return learning_rate(case_of("SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", rate))

    assert finding(0.002) is None and finding(0.00001) is None
    assert finding(0.0021).suggestion.changes == {"SOLVER.BASE_LR": 0.0001}


def schedule(iterations, *overrides, images=100, batch=4):
    lengths = ["SOLVER.MAX_ITER", iterations, "SOLVER.IMS_PER_BATCH", batch]
    return case_of(*lengths, *overrides, images=images)


def test_few_epochs():
    assert few_epochs(schedule(75, images=100)) is None
    finding = few_epochs(schedule(74, "SOLVER.STEPS", (37,), images=100))
    assert finding.numbers == {"epochs": 2.96}
    assert finding.suggestion.changes == {"SOLVER.MAX_ITER": 300, "SOLVER.STEPS": (150,)}


def test_many_epochs():
    many = schedule(90000, "SOLVER.STEPS", (60000, 80000), batch=16, images=200)
    finding = many_epochs(many)
    assert finding.numbers == {"epochs": 7200}
    assert finding.suggestion.changes == {"SOLVER.MAX_ITER": 5000, "SOLVER.STEPS": (3333, 4444)}
    # 100 epochs where these are more than 5000 iterations.
    cosine = schedule(40000, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", batch=1, images=100)
    assert many_epochs(cosine).suggestion.changes == {"SOLVER.MAX_ITER": 10000}
    assert many_epochs(schedule(30000, batch=1, images=100)) is None
    assert many_epochs(schedule(30001, batch=1, images=100)).numbers["epochs"] == 300.01
    assert many_epochs(schedule(5000, batch=16, images=10)) is None


def test_steps_after_end():
    key = "SOLVER.STEPS"
    finding = steps_after_end(schedule(900, key, (900, 60000)))
    assert finding.suggestion.changes == {key: (600, 800)}
    assert steps_after_end(schedule(900, key, (899, 60000))) is None
    # Of the length that the schedule should have.
    finding = steps_after_end(schedule(9, key, (60000,), images=200))
    assert finding.suggestion.changes == {key: (400, 533)}
    cosine = schedule(9000, key, (), "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR")
    assert steps_after_end(cosine) is None


def test_long_warmup():
    assert long_warmup(schedule(1000, "SOLVER.WARMUP_ITERS", 500)) is None
    finding = long_warmup(schedule(1000, "SOLVER.WARMUP_ITERS", 501))
    assert finding.numbers == {"warmup": 501, "iterations": 1000}
    assert finding.suggestion.changes == {"SOLVER.WARMUP_ITERS": 50}
    finding = long_warmup(schedule(20, "SOLVER.WARMUP_ITERS", 1000, images=200))
    assert finding.suggestion.changes == {"SOLVER.WARMUP_ITERS": 30}  # of 600


@pytest.mark.parametrize(
    "at_test, sides, is_found",
    [
        (1000, (800,), False),
        (1001, (800,), True),
        (640, (800,), False),
        (639, (800,), True),
        (1000, (480, 800), False),
        (300, (480, 640, 800), True),
        (0, (800,), False),
        (800, (0,), False),
    ],
)
def test_image_size_at_test_time(at_test, sides, is_found):
    finding = size_at_test(case_of("INPUT.MIN_SIZE_TEST", at_test, "INPUT.MIN_SIZE_TRAIN", sides))
    assert (finding is not None) == is_found
    if is_found:
        middle = sides[len(sides) // 2]
        assert finding.suggestion.changes == {"INPUT.MIN_SIZE_TEST": middle}


def test_channel_order():
    bgr, std = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]

    def finding(order, mean):
        keys = ["INPUT.FORMAT", order, "MODEL.PIXEL_MEAN", mean, "MODEL.PIXEL_STD", std]
        return channel_order(case_of(*keys))

    assert finding("BGR", bgr) is None and finding("RGB", bgr[::-1]) is None
    assert finding("RGB", [127.5] * 3) is None
    changes = finding("RGB", bgr).suggestion.changes
    assert changes == {"MODEL.PIXEL_MEAN": bgr[::-1], "MODEL.PIXEL_STD": std[::-1]}
    assert finding("BGR", bgr[::-1]).suggestion.changes["MODEL.PIXEL_MEAN"] == bgr


def test_frozen_random_layers():
    weights, frozen = "MODEL.WEIGHTS", "MODEL.BACKBONE.FREEZE_AT"
    finding = frozen_random_layers(case_of(weights, "", frozen, 2))
    assert finding.severity == "error" and finding.numbers == {"stages": 2}
    assert finding.suggestion.changes[frozen] == 0
    assert frozen_random_layers(case_of(weights, "", frozen, 0)) is None
    assert frozen_random_layers(case_of(weights, "model.pth", frozen, 2)) is None
    timm = case_of("MODEL.BACKBONE.NAME", "build_timm_fpn_p6_backbone", weights, "", frozen, 2)
    assert frozen_random_layers(timm) is None  # timm's own weights
