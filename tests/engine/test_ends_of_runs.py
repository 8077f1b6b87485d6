"""However a run ends, a checkpoint of its last whole step is left, and only good ones are named."""

import errno
import io
import multiprocessing
import os
import re
import signal
import time
from contextlib import nullcontext

import pytest
import torch
from detectron2.engine import HookBase
from tiny_run import (
    arguments,
    finish,
    loggers_as_before,
    start,
    train,
    write_config,
    write_data_set,
)

from anchor_heads.engine import Trainer, checkpoint, setup
from anchor_heads.engine.rescue import total_losses_are_sane
from anchor_heads.engine.train_step import NonFiniteError, StepError
from anchor_heads.errors import is_user_error


@pytest.fixture
def config(tmp_path):
    write_data_set(tmp_path)
    return write_config(tmp_path, overrides=["SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 100])


def last_iteration(folder) -> int:
    return torch.load(folder / (folder / "last_checkpoint").read_text())["iteration"]


class At(HookBase):
    """Calls a function before a step."""

    def __init__(self, iteration, function):
        self.iteration = iteration
        self.function = function

    def before_step(self):
        if self.trainer.iter == self.iteration:
            self.function(self.trainer)


def fail_in_forward(times):
    """Lets the next forward passes fail."""

    def prepare(trainer):
        left = [times]

        def fail(model, inputs):
            left[0] -= 1
            if left[0] < 0:
                return
            raise IndexError("index -2147483648 is out of bounds")

        trainer.model.register_forward_pre_hook(fail)

    return prepare


def test_an_error_of_any_type_in_a_forward_pass(tmp_path, config):
    with pytest.raises(StepError) as error:
        train(arguments(config), At(3, fail_in_forward(times=1)))
    assert re.search(
        r"Iteration 3 failed: IndexError: index -2147483648 .* Images of that batch: "
        r"\S+\d+\.png, \S+\d+\.png\..* in \S+model_last_good.pth. --resume goes on from there",
        str(error.value),
    )
    assert not isinstance(error.value, NonFiniteError)
    assert last_iteration(tmp_path / "output") == 2
    assert train(arguments(config, flags=("--resume",))).start_iter == 3


@pytest.mark.parametrize("period, named", [(100, "model_0000004.pth"), (3, "model_0000002.pth")])
def test_a_model_that_fails_with_every_batch(tmp_path, config, period, named):
    """Nobody knows whether the weights are good: they are saved, but others go before them."""
    overrides = ["SOLVER.CHECKPOINT_PERIOD", period]
    with pytest.raises(StepError, match="weights in .*model_0000004.pth may be corrupted"):
        train(arguments(config, *overrides), At(5, fail_in_forward(times=100)))
    assert (tmp_path / "output/model_0000004.pth").exists()
    assert (tmp_path / "output/last_checkpoint").read_text() == named


def test_an_error_of_the_loader(tmp_path, config):
    def fail_to_load(trainer):
        trainer._trainer.reset_data_loader(lambda: (fail() for _ in range(9)))

    def fail():
        raise OSError("image file is truncated")

    with pytest.raises(StepError, match="failed: OSError: image file is truncated.*not loaded"):
        train(arguments(config), At(2, fail_to_load))
    assert last_iteration(tmp_path / "output") == 1


def test_an_error_of_a_hook(tmp_path, config):
    class Fails(HookBase):
        def after_step(self):
            if self.trainer.iter == 4:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(arguments(config), Fails())
    assert last_iteration(tmp_path / "output") == 4


def multiply_weights(factor):
    def multiply(trainer):
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.mul_(factor)

    return multiply


@pytest.mark.parametrize("period", [100, 3])
def test_weights_that_were_spoilt_already_are_not_called_good(tmp_path, config, period):
    """The step before has spoilt the weights: 1e9 times as large, but finite."""
    overrides = ["SOLVER.CHECKPOINT_PERIOD", period, "MODEL.RESNETS.NORM", "FrozenBN"]

    class Spoils(HookBase):
        def after_step(self):
            if self.trainer.iter == 4:
                multiply_weights(1e9)(self.trainer)

    with pytest.raises(StepError) as error:
        train(arguments(config, *overrides), Spoils())
    folder = tmp_path / "output"
    assert not (folder / "model_last_good.pth").exists()
    assert "corrupted already" in str(error.value)
    if period == 3:
        assert f"The last healthy checkpoint is {folder}/model_0000002.pth" in str(error.value)
        assert last_iteration(folder) == 2
        resumed = train(arguments(config, *overrides, flags=("--resume",)))
        assert resumed.start_iter == 3
    else:
        assert "no earlier checkpoint" in str(error.value)


def test_checkpoints_that_were_saved_while_the_loss_exploded(tmp_path, config):
    """Checkpoints of iterations 4 and 5 are whole, and worth nothing."""

    def spoil_in_steps(trainer):
        def spoil(*_):
            if trainer.iter >= 4:
                for parameter in trainer.model.head.parameters():
                    parameter.data.mul_(1e3 if trainer.iter == 4 else 1e30)

        trainer.optimizer.register_step_post_hook(spoil)

    with pytest.raises(StepError, match="last healthy checkpoint is .*model_0000003.pth"):
        train(arguments(config, "SOLVER.CHECKPOINT_PERIOD", 1), prepare=spoil_in_steps)
    assert last_iteration(tmp_path / "output") == 3


def test_sane_losses():
    losses = dict(enumerate([2.0, 1.0, 3.0]))
    assert total_losses_are_sane([199.0], losses)
    assert not total_losses_are_sane([201.0], losses)
    assert not total_losses_are_sane([1.0, float("nan")], losses)
    assert not total_losses_are_sane([1.0], {})


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_step_ends_the_run_after_it(tmp_path, config, number, code):
    with pytest.raises(SystemExit) as end:
        train(arguments(config), At(2, lambda trainer: os.kill(os.getpid(), number)))
    assert end.value.code == code
    # In the step's own data loading it is too late for this step to know.
    assert last_iteration(tmp_path / "output") in (2, 3)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_to_all_processes_of_a_job(tmp_path, config):
    """As a scheduler sends it: workers of the data loader get it, too."""

    def terminate_all(trainer):
        workers = multiprocessing.active_children()
        assert workers
        for worker in workers:
            os.kill(worker.pid, signal.SIGTERM)
            worker.join(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as end:
        train(arguments(config, "DATALOADER.NUM_WORKERS", 1), At(2, terminate_all))
    assert end.value.code == 143


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_leaves_a_checkpoint(tmp_path, config, processes):
    record = tmp_path / "record.json"
    overrides = ["SOLVER.MAX_ITER", 100000]
    flags = ["--num-gpus", processes]
    process = start("tests/tiny_run.py", record, "--config-file", config, *flags, *overrides)
    deadline = time.monotonic() + 200
    while not record.exists() or '"iteration": 3' not in record.read_text():
        assert process.poll() is None and time.monotonic() < deadline, finish(process)[1]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    code, said = finish(process, timeout=100)
    assert code == 130, said
    assert last_iteration(tmp_path / "output") >= 3
    assert "go on with --resume" in said


class FullDisk(io.RawIOBase):
    def write(self, content):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("no_space", [no_space, lambda *_: nullcontext(FullDisk())])
def test_a_full_disk_says_so(tmp_path, config, monkeypatch, no_space):
    with pytest.raises(OSError, match="No space left on the disk to write .*model_0000003.pth"):
        train(
            arguments(config, "SOLVER.CHECKPOINT_PERIOD", 4),
            At(3, lambda trainer: monkeypatch.setattr(checkpoint, "open_and_rename", no_space)),
        )
    assert not list((tmp_path / "output").glob("*.pth*"))


# --- what --resume finds ---


@pytest.fixture
def stopped(tmp_path, config):
    """The folder of a run with checkpoints after iterations 3 and 7."""
    train(arguments(config, "SOLVER.CHECKPOINT_PERIOD", 4))
    (tmp_path / "output/model_0000007.pth").unlink()
    return tmp_path / "output"


def resume(config):
    return train(arguments(config, flags=("--resume",)))


def optimizer(checkpoint):
    return checkpoint["trainer"]["_trainer"]["optimizer"]


def test_states_of_a_training_that_are_not_whole(stopped, config):
    changes = {
        "no state": lambda x: x.pop("trainer"),
        "of nothing": lambda x: x.update(trainer=None),
        "a list": lambda x: x.update(trainer=[1]),
        "no iteration": lambda x: x["trainer"].pop("iteration"),
        "an iteration as text": lambda x: x["trainer"].update(iteration="3"),
        "an iteration below 0": lambda x: x["trainer"].update(iteration=-5),
        "no optimizer": lambda x: x["trainer"]["_trainer"].pop("optimizer"),
        "an optimizer of other shapes": lambda x: optimizer(x)["state"][0].update(
            momentum_buffer=torch.ones(3)
        ),
        "an optimizer of nothing": lambda x: optimizer(x)["state"].clear(),
        "a seed as text": lambda x: x["trainer"]["_trainer"].update(seed="abc"),
        "a seed below 0": lambda x: x["trainer"]["_trainer"].update(seed=-1),
        "no weights": lambda x: x.pop("model"),
        "hooks of another form": lambda x: x["trainer"].update(hooks={"LRScheduler": 5}),
        "a config cut off": lambda x: x.update(config="MODEL: ["),
        "a config of another form": lambda x: x.update(config="- 1"),
        "spoilt weights": lambda x: x["model"]["head.cls_score.bias"].fill_(torch.nan),
    }
    path = stopped / "model_final.pth"
    with loggers_as_before():
        trainer = Trainer(setup(arguments(config, flags=("--resume",))))
    for name, change in changes.items():
        checkpoint = torch.load(path, weights_only=False)
        change(checkpoint)
        torch.save(checkpoint, stopped / "changed.pth")
        (stopped / "last_checkpoint").write_text("changed.pth")
        with pytest.raises(ValueError, match="changed.pth (has|is from after)") as error:
            trainer.resume_or_load(resume=True)
        assert is_user_error(error.value), name
        (stopped / "changed.pth").unlink()


@pytest.mark.parametrize(
    "content, problem",
    [
        (None, "no file last_checkpoint"),
        ("", "does not name a file"),
        ("\x00\x07garbage", "does not name a file"),
        ("../elsewhere.pth", "does not name a file"),
        ("model_0000005.pth", "names model_0000005.pth, which is not there"),
    ],
)
def test_last_checkpoint_is_wrong(stopped, config, content, problem):
    tag = stopped / "last_checkpoint"
    tag.unlink() if content is None else tag.write_text(content)
    with pytest.raises(ValueError, match=problem) as error:
        resume(config)
    assert f"newest whole checkpoint is {stopped}/model_final.pth" in str(error.value)


@pytest.mark.parametrize("length", [0, 5000])
def test_the_newest_checkpoint_is_torn(stopped, config, length):
    newest = stopped / "model_final.pth"
    newest.write_bytes(newest.read_bytes()[:length])
    with pytest.raises(ValueError, match=rf"is not whole \({length} bytes\)") as error:
        resume(config)
    assert f"echo model_0000003.pth > {stopped}/last_checkpoint" in str(error.value)
    (stopped / "last_checkpoint").write_text("model_0000003.pth\n")
    assert resume(config).start_iter == 4


def test_a_used_folder_is_not_overwritten(stopped, config):
    with pytest.raises(FileExistsError, match="--resume, or overwrite it with --force"):
        train(arguments(config))
    metrics = (stopped / "metrics.json").read_text()
    with loggers_as_before():  # killed before its first checkpoint
        setup(arguments(config, "SOLVER.MAX_ITER", 1, flags=("--force",)))
    assert not list(stopped.glob("metrics.json")) + list(stopped.glob("events.*"))
    assert (stopped / "earlier_run_1/metrics.json").read_text() == metrics
    assert list((stopped / "earlier_run_1").glob("events.out.tfevents.*"))
    (stopped / "metrics.json").touch()
    with loggers_as_before():
        setup(arguments(config, flags=("--force",)))
    assert (stopped / "earlier_run_2/metrics.json").exists()
    assert sorted(x.name for x in stopped.glob("*.pth")) == ["model_0000003.pth", "model_final.pth"]
    with pytest.raises(ValueError, match="no file last_checkpoint that names the one") as error:
        resume(config)
    assert "model_final.pth, which may be of an earlier run in this folder" in str(error.value)
    assert "To start anew, write --force instead of --resume." in str(error.value)


def test_only_a_training_takes_over_the_folder_of_another(stopped, config):
    for flags in (("--resume", "--force"), ("--eval-only", "--force")):
        with loggers_as_before():
            setup(arguments(config, flags=flags))
        assert (stopped / "last_checkpoint").read_text() == "model_final.pth"


def test_checkpoints_of_the_run_before_are_not_gone_back_to(stopped, config):
    """The other run's is of iteration 3; this one fails later, before it has saved any."""
    overrides = ["SOLVER.CHECKPOINT_PERIOD", 100]
    with pytest.raises(StepError, match="There is no earlier checkpoint"):
        train(arguments(config, *overrides, flags=("--force",)), At(5, fail_in_forward(times=100)))
    assert (stopped / "model_0000003.pth").exists()
    assert (stopped / "last_checkpoint").read_text() == "model_0000004.pth"
