"""Evaluated images with drawn detections."""

import os

import cv2
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from anchor_heads.data.image_files import read_record_image
from anchor_heads.visualization.drawing import draw_detections, write_picture


class PaintedImagesEvaluator(DatasetEvaluator):
    """Writes each image with the detections or proposals of the model.

    It computes no results. In distributed evaluation each process writes the images it evaluates.
    """

    def __init__(self, dataset_name: str, output_dir: str):
        """
        Args:
            dataset_name (str): a registered data set; class names are taken from its metadata.
            output_dir (str): folder for the images, with the same structure as the data set's
                image folder. If that is unknown, the file name gets the image id as prefix.
        """
        self._metadata = MetadataCatalog.get(dataset_name)
        self._output_dir = output_dir

    def process(self, inputs, outputs):
        """
        Args:
            inputs (list[dict]): with "file_name" and "image_id".
            outputs (list[dict]): with "instances" or "proposals" in the frame of the image file.
        """
        for single_input, output in zip(inputs, outputs, strict=True):
            instances = output["instances"] if "instances" in output else output["proposals"]
            image = read_record_image(single_input)
            painted = draw_detections(image, instances, self._metadata)
            path = os.path.join(self._output_dir, self._relative_path(single_input))
            write_picture(path, painted)

    def _relative_path(self, single_input: dict) -> str:
        path = self._path_in_image_folder(single_input)
        return path if cv2.haveImageWriter(path) else path + ".png"

    def _path_in_image_folder(self, single_input: dict) -> str:
        file_name = single_input["file_name"]
        image_root = self._metadata.get("image_root")
        if image_root:
            path = os.path.relpath(file_name, image_root)
            if os.pardir not in path.split(os.sep):
                return path
        return f"{single_input['image_id']}_{os.path.basename(file_name)}"
