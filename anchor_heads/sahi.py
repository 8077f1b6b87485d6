"""Sliced inference of large images with SAHI (``pip install "anchor-heads[sahi]"``)."""

from argparse import Namespace

from sahi.models.detectron2 import Detectron2DetectionModel

from anchor_heads.engine import load_config
from anchor_heads.predictor import load_predictor


class AnchorHeadsDetectionModel(Detectron2DetectionModel):
    """SAHI's model for Detectron2, with the configs of this package and any number of classes.

    ``config_path`` is a path or the name of a shipped config, ``model_path`` a checkpoint. Without
    ``category_mapping`` the classes have the names that were noted in training.
    """

    def load_model(self) -> None:
        """
        Raises:
            ValueError, FileNotFoundError: see :func:`load_predictor`.
        """
        overrides = ["MODEL.DEVICE", str(self.device), "MODEL.WEIGHTS", self.model_path]
        if self.image_size is not None:
            overrides += ["INPUT.MIN_SIZE_TEST", self.image_size]
            overrides += ["INPUT.MAX_SIZE_TEST", self.image_size]
        cfg = load_config(Namespace(config_file=self.config_path, opts=overrides))
        self.model, categories = load_predictor(cfg)
        if self.category_mapping is None:
            self.category_mapping = {str(i): x["name"] for i, x in enumerate(categories)}
        self.category_names = list(self.category_mapping.values())
