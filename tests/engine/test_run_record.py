"""What a run's folder says about how it was made, and what its log leaves to other files."""

import hashlib
import json

from tiny_run import arguments, loggers_as_before, train, write_config, write_data_set

import anchor_heads
from anchor_heads.engine import setup


def test_the_folder_says_what_produced_it(tmp_path, caplog):
    write_data_set(tmp_path)
    config = write_config(tmp_path)
    train(arguments(config, "SOLVER.MAX_ITER", 1))
    train(arguments(config, "SOLVER.MAX_ITER", 2, flags=("--resume",)))
    output = tmp_path / "output"
    first, second = json.loads((output / "run.json").read_text())
    assert first["overrides"] == ["SOLVER.MAX_ITER", "1"]
    assert second["overrides"] == ["SOLVER.MAX_ITER", "2"]
    assert first["config_file"] == config
    assert first["anchor_heads"] == anchor_heads.__version__
    digest = hashlib.sha256((tmp_path / "annotations.json").read_bytes()).hexdigest()
    assert first["data_sets"] == {tmp_path.name: digest}
    assert "PyTorch" in (output / "environment.txt").read_text()
    assert "FreeAnchorRetinaNet(" in (output / "model.txt").read_text()

    kept = [(output / name).read_bytes() for name in ("config.yaml", "environment.txt")]
    (output / "environment.txt").write_bytes(kept[1] + b"of the training")
    with loggers_as_before(), caplog.at_level("INFO", "anchor_heads"):
        setup(arguments(config, "SOLVER.MAX_ITER", 1000, flags=("--eval-only",)))
    assert f". Command and versions are in run.json of {output}." in caplog.text
    *starts, evaluation = json.loads((output / "run.json").read_text())
    assert starts == [first, second]
    assert evaluation["overrides"] == ["SOLVER.MAX_ITER", "1000"]
    assert (output / "config.yaml").read_bytes() == kept[0]
    assert (output / "environment.txt").read_bytes() == kept[1] + b"of the training"

    lines = (output / "log.txt").read_text().splitlines()
    first_loss = next(i for i, line in enumerate(lines) if "total_loss" in line)
    assert first_loss < 60
    assert "OUTPUT_DIR" not in "\n".join(lines[:first_loss]).replace(str(output), "")
    assert "Running on cpu, 1 process(es)" in lines[0]
    assert f"versions are in config.yaml and run.json of {output}." in lines[0]
