"""The length of a training, in epochs."""

from detectron2.data import DatasetCatalog
from tiny_run import arguments, train, write_config, write_data_set

from anchor_heads.config import get_cfg
from anchor_heads.engine.schedule import scale_to_epochs


def test_length_in_epochs(tmp_path):
    write_data_set(tmp_path)  # 12 images
    overrides = ["SOLVER.MAX_EPOCHS", 0.75, "SOLVER.IMS_PER_BATCH", 1]
    overrides += ["SOLVER.MAX_ITER", 100, "SOLVER.STEPS", (60, 80)]
    trainer = train(arguments(write_config(tmp_path, overrides=overrides)))
    assert trainer.max_iter == trainer.iter == 9
    assert trainer.cfg.SOLVER.STEPS == (5, 7)


def test_epochs_are_of_the_images_that_the_loader_keeps():
    """Of two images, one without a visible keypoint."""
    objects = [{"iscrowd": 0, "category_id": 0, "keypoints": [1, 1, v]} for v in (0, 2)]
    DatasetCatalog.register("keypoints", lambda: [{"annotations": [x]} for x in objects])
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_EPOCHS = ("keypoints",), 1, 5.0
    assert scale_to_epochs(cfg).SOLVER.MAX_ITER == 10
    cfg.MODEL.KEYPOINT_ON = True
    assert scale_to_epochs(cfg).SOLVER.MAX_ITER == 5
