"""Inference times of a model beside those of a plain one, and of its parts.

Timed are, in turn and in one process:

- the whole models, from the same image in memory to detections or proposals;
- of the first model, alone: its backbone with FPN, and its head. The head of a model that predicts
  where anchors are wanted has two parts: the guide (towers, location and shape), and judging the
  anchors there. The dense way judges at all locations, of which the wanted ones are picked.

Weights are random unless the config names some, and the image is noise. The input is then scaled
until the features of the first level have the deviation FEATURE_SCALE; the random R-50's are in the
thousands, and almost half of RetinaNet's scores would pass its threshold of 0.05. Still, what is
found is not what a trained model finds: RetinaNet's scores stay at their prior probability 0.01, so
that nothing is decoded or suppressed; RPN suppresses among its usual number of candidates, but
arbitrary ones. Predicted shapes stay close to the squares. The results say how many boxes came out.

The location maps of random weights pass everywhere or nowhere: :class:`GivenLocations` replaces
them.
"""

import math
import platform
import re
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, build_model
from torch import Tensor, nn
from torch.utils.benchmark import timer  # waits for the GPU

BLOB_CELLS = 9
FEATURE_SCALE = 10.0
WARMUP_TURNS = 2


def blobs(size: tuple[int, int], share: float, seed: int = 0) -> Tensor:
    """A map of wanted cells, in blobs around random centres.

    One centre is drawn per BLOB_CELLS wanted cells, and the cells nearest to any centre are wanted:
    a blob by itself is about a square of 3x3; blobs that meet form larger ones.

    Args:
        size (tuple[int, int]): H, W.
        share (float): in (0, 1]; round(share * H * W) cells are wanted, at least 1.
        seed (int): the same seed gives the same map.

    Returns:
        Tensor: (H, W) bool.
    """
    cells = math.prod(size)
    wanted = max(1, round(share * cells))
    generator = torch.Generator().manual_seed(seed)
    beside = torch.ones(cells, dtype=torch.uint8)
    beside[torch.randperm(cells, generator=generator)[: math.ceil(wanted / BLOB_CELLS)]] = 0
    beside = beside.view(size).numpy()
    distance = cv2.distanceTransform(beside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).ravel()
    chance = torch.rand(cells, generator=generator).numpy()  # among cells of the same distance
    result = torch.zeros(cells, dtype=torch.bool)
    result[np.lexsort([chance, distance])[:wanted]] = True
    return result.view(size)


def mean_blob_cells(maps: Sequence[Tensor]) -> float:
    """Cells per connected part (corners connect) of (H, W) bool maps."""
    parts = sum(cv2.connectedComponents(x.cpu().numpy().astype(np.uint8))[0] - 1 for x in maps)
    return sum(int(x.sum()) for x in maps) / parts


class GivenLocations(nn.Module):
    """Stands in for a location branch: at every size of map, :func:`blobs` pass.

    The branch is computed as well, for its time.
    """

    def __init__(self, branch: nn.Module, share: float):
        super().__init__()
        self.branch = branch
        self.share = share
        self.maps = {}

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) features to (N, 1, H, W) logits of probabilities close to 0 and 1."""
        logits = self.branch(x)
        size = tuple(x.shape[2:])
        if size not in self.maps:
            self.maps[size] = blobs(size, self.share).to(x.device)
        return (20.0 * self.maps[size] - 10).expand_as(logits)


@contextmanager
def given_locations(head: nn.Module, share: float):
    """Let a head with the location branch ``conv_loc`` want a share of the locations.

    Yields:
        GivenLocations: what stands in for the branch. On exit the head is as it was.
    """
    branch = head.conv_loc
    head.conv_loc = GivenLocations(branch, share)
    try:
        yield head.conv_loc
    finally:
        head.conv_loc = branch


def make_image(height: int, width: int) -> Tensor:
    """The same noise every time: (3, height, width) uint8."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def build_timed_model(cfg: CfgNode, image: Tensor) -> nn.Module:
    """A model in eval mode; without ``MODEL.WEIGHTS`` it is random, and its input is scaled."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if cfg.MODEL.WEIGHTS:
        DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    else:
        features = _features(model, _preprocess(model, image))
        model.pixel_std *= features[0].std() / FEATURE_SCALE
    return model


@torch.no_grad()
def compare(
    model: nn.Module,
    baseline: nn.Module,
    image: Tensor,
    shares: Sequence[float],
    repeats: int,
) -> list[dict]:
    """Time a model and a baseline, both in eval mode, and the parts of the model.

    Args:
        model, baseline (nn.Module): dense detectors, GeneralizedRCNN or ProposalNetwork.
        image (Tensor): (3, height, width).
        shares (sequence of float): shares of the locations where anchors are wanted. A model that
            does not predict locations is timed once.
        repeats (int): turns, after WARMUP_TURNS to warm up.

    Returns:
        list[dict]: what was measured for each share, ready for JSON. "seconds" and "ratios" have,
        by name, the quartiles (the second is the median) and the value of each turn.
    """
    source, head = _anchor_part(model)
    if not hasattr(source, "guided_anchoring"):
        return [_compare(model, baseline, image, repeats)]
    runs = []
    for share in shares:
        with given_locations(head, share) as locations:
            run = _compare(model, baseline, image, repeats)
            cells = mean_blob_cells(list(locations.maps.values()))
        runs.append({"kept": share, "mean_blob_cells": cells, **run})
    return runs


def _compare(model, baseline, image, repeats) -> dict:
    def detect(x):
        return next(iter(x([{"image": image}])[0].values()))  # "instances" or "proposals"

    models = {"model": lambda: detect(model), "baseline": lambda: detect(baseline)}
    boxes = {name: len(call()) for name, call in models.items()}
    parts = _parts(model, image)
    seconds = take_turns(models, repeats) | take_turns(parts, repeats)
    ratios = {"model / baseline": seconds["model"] / seconds["baseline"]}
    run = {"boxes": boxes}
    if "judging" in parts:
        guide, sparse, dense = (seconds[x] for x in ("guide", "judging", "judging, dense"))
        ratios["judging, sparse / dense"] = sparse / dense
        ratios["head, sparse / dense"] = (guide + sparse) / (guide + dense)
        run["largest_difference"] = _largest_difference(parts["judging"], parts["judging, dense"])
    for name, values in (("seconds", seconds), ("ratios", ratios)):
        run[name] = {key: _summary(x) for key, x in values.items()}
    return run


def take_turns(calls: dict[str, Callable], repeats: int) -> dict[str, np.ndarray]:
    """(repeats,) seconds of each call; all are called once before any is called again."""
    turns = []
    for _ in range(WARMUP_TURNS + repeats):
        times = [timer()]
        for call in calls.values():
            call()
            times.append(timer())
        turns.append(np.diff(times))
    return dict(zip(calls, np.array(turns[WARMUP_TURNS:]).T, strict=True))


def _parts(model, image) -> dict[str, Callable]:
    """The parts of a model, each ready to be called with what it needs."""
    source, head = _anchor_part(model)
    pixels = _preprocess(model, image)
    features = _features(model, pixels)
    calls = {"backbone": lambda: model.backbone(pixels)}
    if not hasattr(source, "guided_anchoring"):
        return calls | {"head": lambda: head(features)}
    anchoring, guides = source.guided_anchoring, head(features)
    return calls | {
        "guide": lambda: head(features),
        "judging": lambda: anchoring.predict_where_wanted(head, guides)[0],
        "judging, dense": lambda: _predict_and_pick(anchoring, head, guides),
    }


def _predict_and_pick(anchoring, head, guides):
    """What ``predict_where_wanted`` has for one image, by way of all locations."""
    levels = []
    for anchors, guide in zip(anchoring.anchors(guides), guides, strict=True):
        wanted = guide.location.sigmoid().flatten(1) >= anchoring.location_thresh
        levels.append([x[wanted] for x in (anchors, *head.predict(guide))])
    return levels


def _largest_difference(sparse, dense) -> float:
    """Between two ways to judge, relative to a level's largest number where that exceeds 1."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        levels = zip(sparse(), dense(), strict=True)
    pairs = [pair for level in levels for pair in zip(*level, strict=True)]
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in pairs)


def _anchor_part(model):
    """What has the anchors, the model itself or its proposal generator, and its head."""
    source = getattr(model, "proposal_generator", model)
    return source, getattr(source, "rpn_head", None) or source.head


def _preprocess(model, image):
    # A method of GeneralizedRCNN, but all these models have what it uses.
    return GeneralizedRCNN.preprocess_image(model, [{"image": image}]).tensor


def _features(model, pixels):
    source, _ = _anchor_part(model)
    maps = model.backbone(pixels)
    names = getattr(source, "in_features", None) or source.head_in_features
    return [maps[name] for name in names]


def _summary(values) -> dict:
    return {"quartiles": np.percentile(values, [25, 50, 75]).tolist(), "turns": values.tolist()}


def environment(device: torch.device) -> dict:
    """What the times depend on beside the models, ready for JSON."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def table(runs: Sequence[dict]) -> str:
    """The results of :func:`compare` as a Markdown table, a column per share."""
    columns = []
    for run in runs:
        column = {"": f"{100 * run['kept']:g} % of the locations" if "kept" in run else "median"}
        if "kept" in run:
            column["cells per blob"] = f"{run['mean_blob_cells']:.1f}"
        for name, value in run["seconds"].items():
            column[f"{name}, ms"] = f"{1000 * value['quartiles'][1]:.1f}"
        for name, value in run["boxes"].items():
            column[f"boxes of the {name}"] = str(value)
        for name, value in run["ratios"].items():
            low, median, high = value["quartiles"]
            column[f"{name} (quartiles)"] = f"{median:.3f} ({low:.3f} to {high:.3f})"
        if "largest_difference" in run:
            column["largest difference"] = f"{run['largest_difference']:.1e}"
        columns.append(column)
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
