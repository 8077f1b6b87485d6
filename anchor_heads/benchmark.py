"""Inference times of a model beside those of others, and of its parts.

Timed are, in turn and in one process:

- the whole models, from the same image in memory to detections or proposals;
- of the first model, alone: its backbone with FPN, and its head. The head of a model that predicts
  where anchors are wanted has two parts: the guide (towers, location and shape), and judging the
  anchors there. The dense way judges at all locations, of which the wanted ones are picked. Of
  another head with deformable convolutions these are timed by themselves too, with the offsets that
  some of them predict.

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
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn
from torch.utils.benchmark import timer  # waits for the GPU

from anchor_heads.layers import DeformConv
from anchor_heads.model_parts import anchor_head, anchor_part, head_features, preprocess

BLOB_CELLS = 9
FEATURE_SCALE = 10.0
WARMUP_TURNS = 2
DEFORMABLE = "deformable convolutions"


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
        features = head_features(model, preprocess(model, image))
        model.pixel_std *= features[0].std() / FEATURE_SCALE
    return model


@torch.no_grad()
def compare(
    models: dict[str, nn.Module], image: Tensor, shares: Sequence[float], repeats: int
) -> list[dict]:
    """Time models, all in eval mode, and the parts of the first.

    Args:
        models (dict[str, nn.Module]): by name, dense detectors, GeneralizedRCNN or ProposalNetwork.
        image (Tensor): (3, height, width).
        shares (sequence of float): shares of the locations where anchors are wanted. If no model
            predicts locations, there is one run without.
        repeats (int): turns, after WARMUP_TURNS to warm up.

    Returns:
        list[dict]: what was measured for each share, ready for JSON. "seconds" and "ratios" have,
        by name, the quartiles (the second is the median) and the value of each turn.
    """
    guided = [anchor_head(x) for x in models.values() if _predicts_locations(x)]
    if not guided:
        return [_compare(models, image, repeats)]
    runs = []
    for share in shares:
        with ExitStack() as stack:
            given = [stack.enter_context(given_locations(head, share)) for head in guided]
            run = _compare(models, image, repeats)
            cells = mean_blob_cells([x for locations in given for x in locations.maps.values()])
        runs.append({"kept": share, "mean_blob_cells": cells, **run})
    return runs


def _predicts_locations(model) -> bool:
    return hasattr(anchor_part(model), "guided_anchoring")


def _compare(models, image, repeats) -> dict:
    def detect(model):
        return next(iter(model([{"image": image}])[0].values()))  # "instances" or "proposals"

    calls = {name: partial(detect, model) for name, model in models.items()}
    boxes = {name: len(call()) for name, call in calls.items()}
    first, *others = models
    parts = _parts(models[first], image)
    seconds = take_turns(calls, repeats) | take_turns(parts, repeats)
    ratios = {f"{first} / {other}": seconds[first] / seconds[other] for other in others}
    run = {"boxes": boxes}
    if DEFORMABLE in parts:
        ratios[f"{DEFORMABLE} / {first}"] = seconds[DEFORMABLE] / seconds[first]
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
    head, images = anchor_head(model), preprocess(model, image)
    features = head_features(model, images)
    calls = {"backbone": lambda: model.backbone(images.tensor)}
    if _predicts_locations(model):
        anchoring, guides = anchor_part(model).guided_anchoring, head(features)
        return calls | {
            "guide": lambda: head(features),
            "judging": lambda: anchoring.predict_where_wanted(head, guides)[0],
            "judging, dense": lambda: _predict_and_pick(anchoring, head, guides),
        }
    calls["head"] = lambda: head(features)
    if any(isinstance(x, DeformConv) for x in head.modules()):
        calls[DEFORMABLE] = _deformable_convolutions(head, features)
    return calls


def _deformable_convolutions(head, features) -> Callable:
    """Repeats what a head's deformable convolutions do with these features, and nothing else."""
    calls = []

    def note(layer, arguments):
        calls.append((layer, arguments))

    layers = [layer for layer in head.modules() if isinstance(layer, DeformConv)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    head(features)
    for hook in hooks:
        hook.remove()
    return lambda: [layer(*arguments) for layer, arguments in calls]


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
