"""Checkpoints: how they are written, and weights that do not fit the model."""

import pickle
import socket

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from tiny_run import arguments, loggers_as_before, train, trainer_for

from anchor_heads.engine import Trainer, setup
from anchor_heads.engine.checkpoint import AtomicCheckpointer, training_checkpoints


@pytest.mark.parametrize(
    "content",
    [
        [torch.ones(2)],
        {"model": {}},
        {"trainer": None},
        {"trainer": {"_trainer": {"run_id": "a"}}},
        {"trainer": {"iteration": "3"}},
    ],
)
@pytest.mark.parametrize("run_id", [None, "a"])
def test_files_that_are_no_checkpoints_of_a_training_are_passed_over(tmp_path, content, run_id):
    torch.save(content, tmp_path / "another.pth")
    whole = {"trainer": {"iteration": 3, "_trainer": {"run_id": "a"}}}
    torch.save(whole, tmp_path / "model.pth")
    assert training_checkpoints(str(tmp_path), run_id) == [(3, str(tmp_path / "model.pth"))]


def test_a_checkpoint_takes_its_place_at_once(tmp_path, monkeypatch):
    model = torch.nn.Linear(2, 2)
    checkpointer = AtomicCheckpointer(model, str(tmp_path))
    checkpointer.save("model")
    before = (tmp_path / "model.pth").read_bytes()

    def killed(data, file):
        file.write(b"half a checkpoint")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    for name in ("model", "another"):
        with pytest.raises(KeyboardInterrupt):
            checkpointer.save(name)
    assert (tmp_path / "model.pth").read_bytes() == before
    assert not (tmp_path / "another.pth").exists()
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model.pth")


def test_weights_that_do_not_exist(make_config):
    config = make_config("FreeAnchorRetinaNet", "MODEL.WEIGHTS", "no/such/model.pth")
    with pytest.raises(FileNotFoundError, match="no/such/model.pth.*MODEL.WEIGHTS"):
        train(arguments(config))


WIDE_STEM = {"backbone.bottom_up.stem.conv1.weight": torch.zeros(64, 3, 7, 7)}


NOTHING_FITS = "Nothing in {path} fits the model.* the model has backbone.fpn_lateral3.weight, "


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "model.pth",
            {"conv1.weight": torch.zeros(8, 3, 7, 7), "layer1.0.bn1.bias": torch.ones(8)},
            NOTHING_FITS,
        ),
        ("model.pth", WIDE_STEM, NOTHING_FITS),
        # Read by Detectron2's matching of names.
        ("model.pkl", {"nowhere_w": np.zeros(3)}, NOTHING_FITS),
        ("model.pth", {}, "{path} has no weights that are known here: it has no entries"),
    ],
)
def test_weights_of_which_nothing_fits(tmp_path, make_config, name, content, message):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(content)) if name.endswith("pkl") else torch.save(content, path)
    config = make_config("FreeAnchorRetinaNet", "MODEL.WEIGHTS", str(path))
    message = message.format(path=path)
    with pytest.raises(ValueError, match=message):
        train(arguments(config))
    assert not (tmp_path / "output" / "model_final.pth").exists()
    with loggers_as_before(), pytest.raises(ValueError, match=message):
        Trainer.evaluate(setup(arguments(config)))


def test_weights_of_which_something_fits_are_loaded(tmp_path, make_config):
    fitting = torch.full((8, 3, 7, 7), 0.5)
    content = {"backbone.bottom_up.stem.conv1.weight": fitting, "fc.weight": torch.zeros(9)}
    torch.save(content, tmp_path / "model.pth")
    trainer = trainer_for(make_config("RetinaNet", "MODEL.WEIGHTS", str(tmp_path / "model.pth")))
    trainer.resume_or_load()
    assert torch.equal(trainer.model.backbone.bottom_up.stem.conv1.weight, fitting)


def test_detectron2_reads_the_checkpoints(tmp_path, make_config):
    trainer = train(arguments(make_config()))
    model = build_model(trainer.cfg)
    optimizer = Trainer.build_optimizer(trainer.cfg, model)
    rest = DetectionCheckpointer(model).load(str(tmp_path / "output" / "model_final.pth"))
    SimpleTrainer(model, [], optimizer).load_state_dict(rest["trainer"]["_trainer"])
    assert rest["iteration"] == 3
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    assert len(optimizer.state_dict()["state"]) == len(list(model.parameters()))


def test_an_address_that_cannot_be_reached_is_one_line_with_what_to_do(tmp_path):
    with socket.socket() as free:  # nobody listens at its port
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/R-50.pth"
    checkpointer = AtomicCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    with pytest.raises(FileNotFoundError) as raised:
        checkpointer.load(address)
    message = str(raised.value)
    assert message.startswith(f"The weights {address} cannot be downloaded (")
    assert "MODEL.WEIGHTS ''" in message and "\n" not in message
