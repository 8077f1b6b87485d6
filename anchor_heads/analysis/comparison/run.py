"""A comparison from beginning to end; one that was stopped continues."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from detectron2.config import CfgNode
from tqdm import tqdm

from anchor_heads.analysis.comparison.measure import (
    AnnotatedImage,
    ComparedModel,
    annotated_images,
)
from anchor_heads.analysis.comparison.page import draw_pictures, html_page
from anchor_heads.analysis.comparison.summary import describe_objects, summarize
from anchor_heads.analysis.model_analysis import Counts, analyze_model
from anchor_heads.analysis.reports import environment, markdown_table
from anchor_heads.data.checks import check_datasets
from anchor_heads.files import open_and_rename


def compare(
    cfgs: dict[str, CfgNode],
    output_dir: str,
    num_images: int | None = None,
    num_pictures: int = 4,
) -> dict:
    """Compare models on the images of their test set, and write comparison.json and .html.

    What is measured is kept in ``output_dir/measured``; the same call continues from there.

    Args:
        cfgs (dict[str, CfgNode]): the models' configs by name; all have the same test set.
        output_dir (str): folder for the results.
        num_images (int or None): measure the first images only; None for all.
        num_pictures (int): how many images the page shows.

    Returns:
        dict: the content of comparison.json.

    Raises:
        ValueError: if the configs have no test set in common, or it has no objects.
        TypeError: if a model has no anchors that are upright boxes.
        FileNotFoundError: if the data set or weights are not there.
    """
    data_set_name = _common_test_set(cfgs)
    for cfg in cfgs.values():
        check_datasets(cfg, train=False)
    data_set = annotated_images(data_set_name)
    images = data_set[:num_images]
    if not any(len(image.objects) for image in images):
        raise ValueError(
            f"None of the {len(images)} images of data set '{data_set_name}' has an annotated "
            "object: there is nothing to measure anchors by."
        )
    models = [ComparedModel(name, cfg) for name, cfg in cfgs.items()]
    machine = environment(torch.device(models[0].cfg.MODEL.DEVICE))
    folder = Path(output_dir, "measured")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{x.name}-{fingerprint(x.cfg, data_set, machine)}.jsonl" for x in models]
    results = _measure_images(models, images, paths)
    report = {
        **machine,
        "data_set": {"name": data_set_name, **describe_objects(images)},
        "models": [
            {**_describe(model, images[0]), **summarize([measured[x.id] for x in images])}
            for model, measured in zip(models, results, strict=True)
        ],
    }
    contents = {
        "json": json.dumps(report, indent=1) + "\n",
        "html": html_page(report, draw_pictures(models, images, num_pictures)),
    }
    for kind, text in contents.items():
        with open_and_rename(f"{output_dir}/comparison.{kind}", "w", encoding="utf-8") as file:
            file.write(text)
    return report


def _common_test_set(cfgs: dict[str, CfgNode]) -> str:
    """The one data set in ``DATASETS.TEST`` of all configs."""
    first, *others = {tuple(cfg.DATASETS.TEST) for cfg in cfgs.values()}
    if others or len(first) != 1:
        raise ValueError(
            "Models are compared on one data set. DATASETS.TEST is "
            f"{', '.join(map(str, [first, *others]))}. Name the one for all: "
            "DATASETS.TEST '(\"name\",)'"
        )
    return first[0]


def fingerprint(cfg: CfgNode, images: Sequence[AnnotatedImage], machine: dict) -> str:
    """A name, 12 hexadecimal digits, for the measurements that belong together: of a model with its
    weights, all images of a data set, and a machine, whatever its date."""
    boxes = [[x.record["file_name"], x.id, x.objects.gt_boxes.tensor.tolist()] for x in images]
    digest = hashlib.sha256(json.dumps([cfg.dump(), boxes, machine | {"date": ""}]).encode())
    if Path(cfg.MODEL.WEIGHTS).is_file():
        digest.update(Path(cfg.MODEL.WEIGHTS).read_bytes())
    return digest.hexdigest()[:12]


def _measure_images(
    models: Sequence[ComparedModel], images: Sequence[AnnotatedImage], paths: Sequence[Path]
) -> list[dict]:
    """Measure, image by image, what the models' files do not have yet.

    Returns:
        list[dict]: of each model the measurements by image id.
    """
    results = [read_measurements(path) for path in paths]
    todo = [image for image in images if any(image.id not in x for x in results)]
    for model in models if todo else ():
        model.measure(todo[0])  # the first run takes longer than others
    for image in tqdm(
        todo, "Measuring", len(images), initial=len(images) - len(todo), unit="image"
    ):
        for model, path, measured in zip(models, paths, results, strict=True):
            if image.id not in measured:
                measured[image.id] = model.measure(image)
                with path.open("a") as file:
                    file.write("\n" + json.dumps(measured[image.id]))
    return results


def read_measurements(path: Path) -> dict:
    """The measurements in a file, by image id. A line that was torn when its process was killed is
    left out."""
    measured = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(ValueError):
            result = json.loads(line)
            measured[result["image_id"]] = result
    return measured


def _describe(model: ComparedModel, image: AnnotatedImage) -> dict:
    """What can be said of a model without looking at many images."""
    height, width = model.load(image)["image"].shape[1:]
    try:
        counts = analyze_model(model.cfg, (height, width))["total"]
    except NotImplementedError:  # a model with a part that cannot be counted
        counts = Counts(None, None, None)
    return {
        "name": model.name,
        "weights": model.cfg.MODEL.WEIGHTS,
        "head_is_trained": model.head_is_trained,
        "input_size": [height, width],
        "parameters": counts.parameters,
        "multiply_adds": counts.multiply_adds,
    }


def overview(models: list[dict]) -> str:
    """The main numbers of a report's models, as a Markdown table."""
    headers = ["model", "anchors", "locations kept, %", "best IoU, mean", "NMS recall, %", "ms"]
    rows = [
        [
            model["name"],
            f"{model['anchors_per_image']['all']:,.0f}",
            f"{model['locations_kept']['all']:.1f}",
            f"{model['best_iou']['all']['mean']:.3f}",
            f"{model['nms_recall']['NR']:.1f}" if model["nms_recall"] else "",
            f"{1000 * model['seconds_per_image'][1]:.1f}",
        ]
        for model in models
    ]
    return markdown_table(headers, rows, text_columns=1)
