"""A comparison from beginning to end, which can be stopped and gone on with."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from tqdm import tqdm

from anchor_heads.analysis.benchmark import environment
from anchor_heads.analysis.comparison.images import AnnotatedImage, annotated_images
from anchor_heads.analysis.comparison.measure import ComparedModel
from anchor_heads.analysis.comparison.page import html_page
from anchor_heads.analysis.comparison.pictures import ImagePictures, pictures_of
from anchor_heads.analysis.comparison.store import Measurements, fingerprint
from anchor_heads.analysis.comparison.summary import describe_objects, summarize
from anchor_heads.analysis.comparison.tables import markdown_report
from anchor_heads.analysis.model_analysis import Counts, analyze_model
from anchor_heads.checkpoint.files import open_and_rename
from anchor_heads.data.checks import check_datasets


def compare(
    cfgs: dict[str, CfgNode],
    output_dir: str,
    num_images: int | None = None,
    num_pictures: int = 4,
) -> dict[str, Path]:
    """Compare models on the images of their test set.

    What is measured is kept in ``output_dir/measured``; the same call goes on from there.

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
    name = common_test_set(cfgs)
    for cfg in cfgs.values():
        check_datasets(cfg, train=False)
    data_set = annotated_images(name)
    images = data_set[:num_images]
    if not any(len(image.objects) for image in images):
        raise ValueError(
            f"None of the {len(images)} images of data set '{name}' has an annotated object: there "
            "is nothing to measure anchors by."
        )
    models = [ComparedModel(model_name, cfg) for model_name, cfg in cfgs.items()]
    stores = [_store(model, data_set, Path(output_dir) / "measured") for model in models]
    measure_images(models, images, stores)

    report = {
        **_environment(models[0]),
        "data_set": {"name": name, **describe_objects(images)},
        "models": [
            {**_describe(model, images[0]), **summarize(store, images)}
            for model, store in zip(models, stores, strict=True)
        ],
    }
    pictures = pictures_of(models, images, num_pictures)
    return write_report(report, pictures, Path(output_dir))


def write_report(report: dict, pictures: Sequence[ImagePictures], folder: Path) -> dict[str, Path]:
    """Write what was measured for programs and for people; see :func:`compare`."""
    contents = {
        "json": json.dumps(report, indent=1) + "\n",
        "md": markdown_report(report),
        "html": html_page(report, pictures),
    }
    paths = {kind: folder / f"comparison.{kind}" for kind in contents}
    for kind, text in contents.items():
        with open_and_rename(str(paths[kind]), "w", encoding="utf-8") as file:
            file.write(text)
    return paths


def model_names(config_files: Sequence[str]) -> list[str]:
    """Short and different names of models.

    A config is called by its file, one of a training run, which is called config.yaml, by its
    folder. Further models of the same name are numbered.
    """
    names = []
    for path in map(Path, config_files):
        name = path.absolute().parent.name if path.stem == "config" else path.stem
        numbered = (f"{name}_{i}" for i in itertools.count(2))
        names.append(next(x for x in itertools.chain([name], numbered) if x not in names))
    return names


def common_test_set(cfgs: dict[str, CfgNode]) -> str:
    """The one data set in ``DATASETS.TEST`` of all configs.

    Raises:
        ValueError: if it is not one, and the same.
    """
    test_sets = {name: tuple(cfg.DATASETS.TEST) for name, cfg in cfgs.items()}
    first = next(iter(test_sets.values()))
    if len(first) != 1 or set(test_sets.values()) != {first}:
        found = ", ".join(f"{names} of {model}" for model, names in test_sets.items())
        raise ValueError(
            f"Models are compared on one data set. DATASETS.TEST is {found}. Name the one for all: "
            "DATASETS.TEST '(\"name\",)'"
        )
    return first[0]


def measure_images(
    models: Sequence[ComparedModel],
    images: Sequence[AnnotatedImage],
    stores: Sequence[Measurements],
) -> None:
    """Measure with all models what their stores do not have yet, image by image."""
    pairs = list(zip(models, stores, strict=True))
    todo = [x for x in images if any(x.record["image_id"] not in s.image_ids for s in stores)]
    if todo:
        for model in models:
            model.run(model.load(todo[0]))  # the first run takes longer than others
    done = len(images) - len(todo)
    for image in tqdm(todo, "Measuring", len(images), initial=done, unit="image"):
        for model, store in pairs:
            if image.record["image_id"] not in store.image_ids:
                store.add(model.measure(image))


def _store(model, data_set, folder):
    conditions = _environment(model)
    del conditions["date"]
    name = f"{model.name}-{fingerprint(model.cfg, data_set, conditions)}.jsonl"
    return Measurements(folder / name)


def _environment(model: ComparedModel) -> dict:
    return environment(torch.device(model.cfg.MODEL.DEVICE))


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
