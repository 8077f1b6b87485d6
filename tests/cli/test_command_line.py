"""What all commands have in common: arguments, errors and help."""

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from tiny_run import write_config, write_data_set

from anchor_heads.cli.main import COMMANDS
from anchor_heads.cli.train import set_overrides
from anchor_heads.engine import load_config
from anchor_heads.engine.lazy import load_lazy_config
from anchor_heads.errors import is_user_error


@pytest.fixture
def config(tmp_path):
    write_data_set(tmp_path)
    return write_config(tmp_path)


def test_help_lists_the_commands_without_importing_torch():
    code = "import sys; from anchor_heads.cli.main import main\ntry: main(['--help'])\n"
    code += "except SystemExit: assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    listed = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert set(COMMANDS) <= set(listed)


def test_warnings_that_nobody_can_act_on_are_hidden(config):
    """Also in processes that a command starts; of an import they would be seen."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    command = [sys.executable, "-m", "anchor_heads", "analyze", config, "--image-size", "64", "64"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0 and "Warning" not in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(command, name):
    code, said, _ = command(name, "--help")
    assert code == 0 and f"anchor-heads {name}" in said
    assert "--config-file CONFIG" in said or name == "convert-dataset"
    if name == "analyze":  # has nothing but a table to give
        assert "--output" not in said and "--force" not in said
    else:
        assert "--force" in said and ("--output F" in said or name.startswith("convert"))


def test_a_config_is_named_by_option_or_as_first_argument(command, config):
    expected = command("analyze", "--config-file", config, "--image-size", 64, 64)
    assert expected[0] == 0
    assert command("analyze", config, "--image-size", 64, 64) == expected
    for words in (
        ["SEED", 1, "--image-size", 64, 64],
        ["--image-size", 64, 64, "GLOBAL.HACK", "-1e-5"],
    ):
        assert command("analyze", config, *words)[:2] == expected[:2]


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "name a config: --config-file CONFIG"),
        (["no/such/config"], "There is no config file"),
        (["quick_start/free_anchor", "MODLE.DEVICE", "cpu"], "Similar keys: MODEL.DEVICE"),
        (["quick_start/free_anchor", "MODEL.DEVCE", "cpu"], "Similar keys: MODEL.DEVICE"),
        (["quick_start/free_anchor", "--no-such-option"], "unrecognized arguments: --no-such"),
    ],
)
def test_user_errors_end_in_one_line(command, words, expected):
    code, said, error = command("analyze", *words)
    *usage, line = error.splitlines()
    assert (code, said) == (2, "")
    assert line.startswith("anchor-heads analyze: error: ") and expected in line
    assert not usage or usage[0].startswith("usage: ")


def test_an_unknown_command_is_an_error(command):
    code, _, error = command("trian")
    assert code == 2 and "invalid choice: 'trian'" in error.splitlines()[-1]


def test_bugs_keep_their_traceback(command, config, monkeypatch):
    monkeypatch.setattr("anchor_heads.cli.analyze.analyze_model", lambda *_: [][1])
    with pytest.raises(IndexError):
        command("analyze", config)


def test_only_what_the_package_raises_is_a_user_error():
    from anchor_heads import model_zoo

    def caught(function, *args):
        with pytest.raises(Exception) as raised:
            function(*args)
        return raised.value

    assert is_user_error(caught(model_zoo.get_config, "no_such_config"))
    assert is_user_error(caught(open, "/no/such/file"))
    assert not is_user_error(caught(int, "x"))
    assert not is_user_error(caught(model_zoo.get_config_file, None))


def test_train_and_eval(command, config, tmp_path):
    code, _, error = command("train", config, "--output", tmp_path / "output", "SOLVER.MAX_ITER", 2)
    assert code == 0, error
    weights = tmp_path / "output/model_final.pth"
    assert weights.exists()
    code, _, error = command("train", config, "SOLVER.MAX_ITER", 2)
    line = error.splitlines()[-1]
    assert code == 2 and "has the checkpoints of another run" in line and "--force" in line
    assert command("train", config, "--resume", "SOLVER.MAX_ITER", 3)[0] == 0
    assert command("train", config, "--force", "SOLVER.MAX_ITER", 1)[0] == 0
    code, _, error = command("eval", config, "--weights", tmp_path / "none.pth")
    assert code == 2 and f"there is no file {tmp_path / 'none.pth'}" in error
    options = ["--weights", weights, "--output", tmp_path / "eval"]
    assert command("eval", config, *options)[0] == 0
    assert (tmp_path / "eval/inference/coco_instances_results.json").exists()
    code, _, error = command("eval", config, "--weights", weights, "OUTPUT_DIR", tmp_path / "eval")
    assert code == 2 and "output files exist" in error.splitlines()[-1]
    assert command("eval", config, *options, "--force")[0] == 0


LAZY_CONFIG = """
model, dataloader, optimizer, lr_multiplier = {}, dict(train={}), {}, {}
train = dict(output_dir="", device="cpu", max_iter=1, log_period=1, eval_period=0,
             amp=dict(enabled=False), checkpointer=dict(period=1))
"""


@pytest.mark.parametrize("name", ["20261127", "it's a=b, (c) $x", "[1]"])
@pytest.mark.parametrize("kind", ["yaml", "py"])
def test_weights_and_output_are_overrides_of_a_run(tmp_path, monkeypatch, kind, name):
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    (tmp_path / "config.yaml").write_text("VERSION: 2")
    (tmp_path / "config.py").write_text(LAZY_CONFIG)
    args = Namespace(config_file=f"config.{kind}", weights=name, output=name, opts=[])
    set_overrides(args)
    if kind == "py":
        train = load_lazy_config(args).train
        assert (train.init_checkpoint, train.output_dir) == (name, name)
    else:
        cfg = load_config(args)
        assert (cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR) == (name, name)
