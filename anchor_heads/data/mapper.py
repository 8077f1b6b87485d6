"""From a record of a data set to the model's input."""

import copy

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper as Detectron2DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

from anchor_heads.data.augmentation import ColorJitter
from anchor_heads.data.image_files import ImageFileError, read_record_image
from anchor_heads.errors import said_by_library


class DatasetMapper(Detectron2DatasetMapper):
    """Detectron2's mapper, with images read by :mod:`anchor_heads.data.image_files`.

    Images are in the frame of their annotations, lose nothing in silence, and whatever fails names
    the file.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        """Same as Detectron2's, with INPUT.COLOR_JITTER."""
        ret = super().from_config(cfg, is_train)
        if is_train and any(cfg.INPUT.COLOR_JITTER):
            ret["augmentations"].append(ColorJitter(cfg.INPUT.COLOR_JITTER, cfg.INPUT.FORMAT))
        return ret

    def __call__(self, dataset_dict: dict) -> dict:
        """Same as Detectron2's.

        Raises:
            ImageFileError: if the image or its annotations cannot be used; names the file.
        """
        dataset_dict = copy.deepcopy(dataset_dict)  # it will be modified
        image = read_record_image(dataset_dict, self.image_format)
        return self.map_image(dataset_dict, image)

    def map_image(self, dataset_dict: dict, image: np.ndarray) -> dict:
        """Augment an image with its annotations, and make them the model's input.

        Args:
            dataset_dict (dict): in Detectron2's data set format; it is modified.
            image (ndarray): (H, W, C) in the frame of the annotations.

        Returns:
            dict: as Detectron2's mapper returns it.

        Raises:
            ImageFileError: if the annotations cannot be used with this image.
        """
        try:
            return self._map_image(dataset_dict, image)
        except MemoryError:
            raise
        except Exception as error:
            raise ImageFileError(
                f"Cannot use {dataset_dict['file_name']} with its annotations: "
                f"{type(error).__name__}: {str(error) or said_by_library(error)}"
            ) from error

    def _map_image(self, dataset_dict, image):
        utils.check_image_size(dataset_dict, image)  # which fills in what is missing
        sem_seg = None
        if "sem_seg_file_name" in dataset_dict:
            sem_seg = utils.read_image(dataset_dict.pop("sem_seg_file_name"), "L").squeeze(2)

        aug_input = T.AugInput(image, sem_seg=sem_seg)
        transforms = self.augmentations(aug_input)
        image, sem_seg = aug_input.image, aug_input.sem_seg
        image_shape = image.shape[:2]  # h, w
        dataset_dict["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if sem_seg is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(sem_seg.astype("long"))
        if self.proposal_topk is not None:
            utils.transform_proposals(
                dataset_dict, image_shape, transforms, proposal_topk=self.proposal_topk
            )
        if not self.is_train:
            dataset_dict.pop("annotations", None)
        elif "annotations" in dataset_dict:
            self._transform_annotations(dataset_dict, transforms, image_shape)
        return dataset_dict

    def _transform_annotations(self, dataset_dict, transforms, image_shape):
        """Same as Detectron2's, which fails at images without objects if masks are cropped."""
        if any(not annotation.get("iscrowd", 0) for annotation in dataset_dict["annotations"]):
            super()._transform_annotations(dataset_dict, transforms, image_shape)
        else:
            del dataset_dict["annotations"]
            dataset_dict["instances"] = utils.annotations_to_instances([], image_shape)
