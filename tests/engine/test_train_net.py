"""The command line, from training to evaluation."""

import json

from tiny_run import finish, start, write_config, write_data_set


def run(*command_line) -> tuple[int, str]:
    return finish(start("train_net.py", *command_line))


def test_train_then_evaluate(tmp_path):
    write_data_set(tmp_path)
    config = write_config(tmp_path, overrides=["TEST.SHOW_DIR", str(tmp_path / "shown")])
    code, said = run("--config-file", config, "SOLVER.MAX_ITER", 2)
    assert code == 0, said
    assert (tmp_path / "output/last_checkpoint").read_text() == "model_final.pth"

    weights = ["MODEL.WEIGHTS", tmp_path / "output/model_final.pth", "OUTPUT_DIR", tmp_path / "new"]
    code, said = run("--config-file", config, "--eval-only", *weights)
    assert code == 0, said
    assert "AP50" in said
    assert "bbox/AP50" in json.loads((tmp_path / "new/metrics.json").read_text())
    assert len(list((tmp_path / "shown").iterdir())) == 12


def test_a_wrong_key_is_said_at_once(tmp_path):
    write_data_set(tmp_path)
    code, said = run("--config-file", write_config(tmp_path), "--num-gpus", 2, "SOLVER.MAXITER", 2)
    assert code == 2
    (line,) = said.splitlines()
    assert line.startswith("train_net.py: error: There is no config key SOLVER.MAXITER. Similar")
    assert "SOLVER.MAX_ITER" in line
