"""A comparison from beginning to end, which can be stopped and resumed."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from tqdm import tqdm

from anchor_heads.analysis.comparison.measure import (
    AnnotatedImage,
    ComparedModel,
    annotated_images,
)
from anchor_heads.analysis.comparison.page import html_page
from anchor_heads.analysis.comparison.pictures import pictures_of
from anchor_heads.analysis.comparison.store import Measurements, fingerprint
from anchor_heads.analysis.comparison.summary import describe_objects, summarize
from anchor_heads.analysis.comparison.tables import markdown_report
from anchor_heads.analysis.model_analysis import Counts, analyze_model
from anchor_heads.analysis.reports import environment
from anchor_heads.checkpoint.files import open_and_rename
from anchor_heads.data.checks import check_datasets


def compare(
    cfgs: dict[str, CfgNode],
    output_dir: str,
    num_images: int | None = None,
    num_pictures: int = 4,
) -> dict[str, Path]:
    """Compare models on the images of their test set.

    What is measured is kept in ``output_dir/measured``; the same call resumes from there.

    Args:
        cfgs (dict[str, CfgNode]): the models' configs by name; all have the same test set.
        output_dir (str): folder for the results.
        num_images (int or None): measure the first images only; None for all.
        num_pictures (int): how many images the page shows.

    Returns:
        dict[str, Path]: what was written, by kind: "json", "md" and "html".

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
    conditions = {key: value for key, value in machine.items() if key != "date"}
    folder = Path(output_dir, "measured")
    names = [f"{x.name}-{fingerprint(x.cfg, data_set, conditions)}" for x in models]
    stores = [Measurements(folder / f"{name}.jsonl") for name in names]
    _measure_images(models, images, stores)

    report = {
        **machine,
        "data_set": {"name": data_set_name, **describe_objects(images)},
        "models": [
            {**_describe(model, images[0]), **summarize(store, images)}
            for model, store in zip(models, stores, strict=True)
        ],
    }
    contents = {
        "json": json.dumps(report, indent=1) + "\n",
        "md": markdown_report(report),
        "html": html_page(report, pictures_of(models, images, num_pictures)),
    }
    paths = {kind: Path(output_dir, f"comparison.{kind}") for kind in contents}
    for kind, text in contents.items():
        with open_and_rename(str(paths[kind]), "w", encoding="utf-8") as file:
            file.write(text)
    return paths


def _common_test_set(cfgs: dict[str, CfgNode]) -> str:
    """The one data set in ``DATASETS.TEST`` of all configs."""
    test_sets = {name: tuple(cfg.DATASETS.TEST) for name, cfg in cfgs.items()}
    first = next(iter(test_sets.values()))
    if len(first) != 1 or set(test_sets.values()) != {first}:
        found = ", ".join(f"{names} of {model}" for model, names in test_sets.items())
        raise ValueError(
            f"Models are compared on one data set. DATASETS.TEST is {found}. Name the one for all: "
            "DATASETS.TEST '(\"name\",)'"
        )
    return first[0]


def _measure_images(
    models: Sequence[ComparedModel],
    images: Sequence[AnnotatedImage],
    stores: Sequence[Measurements],
) -> None:
    """Measure with all models what their stores do not have yet, image by image."""
    todo = [x for x in images if any(x.record["image_id"] not in s.image_ids for s in stores)]
    if todo:
        for model in models:
            model.run(model.load(todo[0]))  # the first run takes longer than others
    for image in tqdm(
        todo, "Measuring", len(images), initial=len(images) - len(todo), unit="image"
    ):
        for model, store in zip(models, stores, strict=True):
            if image.record["image_id"] not in store.image_ids:
                store.add(model.measure(image))


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
