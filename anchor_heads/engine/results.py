"""Results of evaluations: their names, and where they are written."""

import os
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils.events import EventStorage, JSONWriter, TensorboardXWriter


def in_folders_of(cfg: CfgNode, name: str) -> CfgNode:
    """The config with folders of their own for the results of another kind of evaluation."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, name)
    if cfg.TEST.SHOW_DIR:
        cfg.TEST.SHOW_DIR = os.path.join(cfg.TEST.SHOW_DIR, name)
    return cfg


def with_suffix(results: dict, suffix: str) -> dict:
    """The results of one data set, under the names of their tasks with a suffix."""
    return {f"{task}{suffix}": metrics for task, metrics in results.items()}


def is_of_average(cfg: CfgNode) -> bool:
    """Whether TEST.BEST_METRIC is one of the average of the weights, such as "bbox_EMA/AP"."""
    metric = cfg.TEST.BEST_METRIC
    if len(cfg.DATASETS.TEST) > 1:  # it starts with the name of the data set
        metric = metric.partition("/")[2]
    return metric.partition("/")[0].endswith("_EMA")


def write_results(results: dict, output_dir: str, iteration: Any) -> None:
    """Write results to metrics.json and TensorBoard, as those of an iteration, if it is one."""
    iteration = iteration if isinstance(iteration, int) else 0  # of a file of anyone's
    writers = [JSONWriter(os.path.join(output_dir, "metrics.json")), TensorboardXWriter(output_dir)]
    with EventStorage(max(iteration, 0)) as storage:
        storage.put_scalars(**flatten_results_dict(results), smoothing_hint=False)
        for writer in writers:
            writer.write()
            writer.close()
