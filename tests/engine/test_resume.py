"""A stopped run that is resumed ends as the run that was never stopped."""

import os
import random
import signal
import time

import pytest
import torch
from tiny_run import (
    Record,
    arguments,
    finish,
    load_weights,
    read_record,
    start,
    train,
    write_config,
    write_data_set,
)

STEPS = 12


def assert_same_weights(weights, others, atol=0.0):
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=0, atol=atol, msg=name)


def assert_same_steps(lines, others, rel=0.0):
    assert [(line["iteration"], line["files"]) for line in lines] == [
        (line["iteration"], line["files"]) for line in others
    ]
    for line, other in zip(lines, others, strict=True):
        assert line["losses"] == pytest.approx(other["losses"], rel=rel, abs=0)


def kill_after(process, record, step: int, delay: float) -> None:
    """Kill a run hard, ``delay`` seconds after it has finished a step."""
    deadline = time.monotonic() + 200
    while not record.exists() or f'"iteration": {step},' not in record.read_text():
        assert process.poll() is None, finish(process)[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# The methods go on bit by bit as they would have. Detectron2's RetinaNet has TorchScript functions,
# which round differently in the first steps of a process. It also divides its losses by a running
# mean that is not part of its weights.
@pytest.mark.parametrize(
    "model, tolerance",
    [
        ("FreeAnchorRetinaNet", 0.0),
        ("GuidedAnchorRetinaNet", 0.0),
        ("DynamicAnchorRetinaNet", 0.0),
        ("RetinaNet", 1e-6),
    ],
)
def test_killed_at_a_random_moment(tmp_path, model, tolerance):
    draw = random.Random(seed := random.SystemRandom().randrange(10**6))
    step, delay = draw.randrange(2, STEPS - 4), draw.uniform(0, 0.1)
    print(f"seed {seed}: killed {delay:.3f} s after step {step}")  # pytest shows it on failure

    write_data_set(tmp_path)
    config = write_config(tmp_path, model, ["SOLVER.MAX_ITER", STEPS, "SOLVER.BASE_LR", 0.01])
    unbroken = ["OUTPUT_DIR", tmp_path / "unbroken"]
    train(arguments(config, *unbroken), Record(tmp_path / "unbroken.json"))
    expected = read_record(tmp_path / "unbroken.json")
    assert [line["iteration"] for line in expected] == list(range(STEPS))

    record = tmp_path / "killed.json"
    with_workers = ["DATALOADER.NUM_WORKERS", 1]
    process = start("tests/tiny_run.py", record, "--config-file", config, *with_workers)
    kill_after(process, record, step, delay)
    seen = [line for line in read_record(record) if line["iteration"] <= step]
    assert_same_steps(seen, expected[: step + 1], 10 * tolerance)

    record.write_text("")
    trainer = train(arguments(config, flags=("--resume",)), Record(record))
    # From the last checkpoint on; there is one after every second step.
    assert step - 1 <= trainer.start_iter
    assert_same_steps(read_record(record), expected[trainer.start_iter :], 10 * tolerance)
    weights = load_weights(tmp_path / "output"), load_weights(tmp_path / "unbroken")
    assert_same_weights(*weights, tolerance)


@pytest.mark.parametrize("seed", [3, -1])
def test_the_random_numbers_of_model_and_augmentation_go_on(tmp_path, seed):
    """R-CNN samples anchors and proposals; without SEED, the seed is random and saved with them."""
    write_data_set(tmp_path)
    overrides = ["SEED", seed, "INPUT.RANDOM_FLIP", "horizontal", "SOLVER.MAX_ITER", 5]
    overrides += ["SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 0.001]
    overrides += ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", 16, "DATALOADER.NUM_WORKERS", 1]
    config = write_config(tmp_path, "GeneralizedRCNN", overrides)
    trainer = train(arguments(config), Record(tmp_path / "whole.json"))
    weights = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}

    (tmp_path / "output" / "last_checkpoint").write_text("model_0000001.pth")
    resumed = train(arguments(config, flags=("--resume",)), Record(tmp_path / "resumed.json"))
    whole = read_record(tmp_path / "whole.json")
    assert_same_steps(read_record(tmp_path / "resumed.json"), whole[2:])
    assert_same_weights(resumed.model.state_dict(), weights)


def test_resuming_a_finished_run_does_not_train_again(tmp_path):
    write_data_set(tmp_path)
    config = write_config(tmp_path)
    train(arguments(config))
    trainer = train(arguments(config, flags=("--resume",)), Record(tmp_path / "record.json"))
    assert trainer.start_iter == 4
    assert not (tmp_path / "record.json").exists()


def test_resuming_without_a_checkpoint_starts_from_the_beginning(tmp_path):
    write_data_set(tmp_path)
    trainer = train(arguments(write_config(tmp_path), flags=("--resume",)))
    assert trainer.start_iter == 0
