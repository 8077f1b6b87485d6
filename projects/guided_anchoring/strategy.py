"""Guided Anchoring's anchor strategy: predicted locations and shapes, with their losses.

Shape shorthand in this module:

    N: number of images
    H, W: height and width of a feature level
    R: number of locations of one image, over all levels
    A: number of shape samples at a location
    n: number of chosen locations; a location is an index into the flattened (N, H, W)
"""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from anchor_heads.anchor_generation import (
    SquareGenerator,
    build_square_generator,
    decode_levels,
    decode_shapes,
)
from anchor_heads.anchor_generation.predicted_anchor_strategy import PredictedAnchorStrategy
from anchor_heads.anchor_generation.preset_coverage import best_preset_iou
from anchor_heads.anchor_generation.shaped_anchors import smallest_sizes
from anchor_heads.anchor_generation.strategy import (
    ConfigProblem,
    Coverage,
    LevelAnchors,
    LocationMap,
    Part,
)
from anchor_heads.layers import bounded_iou_loss, flatten_hw, iou_loss, is_exporting
from anchor_heads.modeling.distributed import loss_normalizer
from anchor_heads.modeling.matching import Match, MaxIoUMatcher, of_matched
from anchor_heads.modeling.statistics import put_scalars

from .head import AnchorPrediction, GuidedHead
from .losses import location_loss
from .targets import location_targets, object_levels

# The published code divides the location loss by the number of locations over this.
LOCATIONS_PER_COUNT = 200

# Aspect ratios of shape samples, over the one that anchors start from.
SAMPLED_ASPECT_RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)

# At test time the class and box branches of a level are computed at its kept locations only, if
# their share is below this. GA-RetinaNet on a CPU gains up to about here.
SPARSE_SHARE = 0.7
# Besides, this many locations have to be left out. On a GPU that makes up for ten times the kernels
# (GA-RetinaNet: 277 operators instead of 25); the number is an estimate, not measured.
LEAST_LEFT_OUT = {"cpu": 0, "cuda": 2**13}


class GuidedAnchoring(nn.Module):
    """Guided anchors, and the losses of their location and shape (paper: Guided Anchoring).

    It is the part that the proposal generator and the detector share; it has no parameters.
    """

    @configurable
    def __init__(
        self,
        *,
        sample_generator: DefaultAnchorGenerator,
        square_generator: SquareGenerator | None = None,
        shape_std: float = 0.14,
        shape_matcher: Callable | None = None,
        shape_batch_size_per_image: int = 256,
        shape_positive_fraction: float = 0.5,
        shape_loss_type: str = "bounded_iou",
        shape_loss_beta: float = 0.2,
        shape_loss_weight: float = 1.0,
        location_thresh: float = 0.01,
        center_ratio: float = 0.2,
        ignore_ratio: float = 0.5,
        level_by_short_side: bool = False,
        location_focal_alpha: float = 0.25,
        location_focal_gamma: float = 2.0,
        location_loss_weight: float = 1.0,
        inverted_location_label: bool = False,
    ):
        """
        Args:
            sample_generator (DefaultAnchorGenerator): generator of A shape samples per location;
                the IoU of an object with a location is that with the best of them.
            square_generator (SquareGenerator or None): generator of one square per location; None
                for squares of each level's smallest size of ``sample_generator``.
            shape_std (float): scale of the shape prediction.
            shape_matcher (callable or None): matches objects with shape samples, see
                :class:`MaxIoUMatcher`; None for the thresholds published for GA-RPN.
            shape_batch_size_per_image (int): locations sampled for the shape loss.
            shape_positive_fraction (float): how many of them at most are positive.
            shape_loss_type (str): "bounded_iou" or "iou".
            shape_loss_beta (float): where smooth L1 in "bounded_iou" becomes linear.
            location_thresh (float): at test time, the least probability of a location.
            center_ratio, ignore_ratio (float): see :func:`location_targets`.
            level_by_short_side (bool): see :func:`object_levels`.
            location_focal_alpha, location_focal_gamma (float): of the location loss.
            inverted_location_label (bool): train the location the wrong way round, as
                mmdetection 2.x does.
            shape_loss_weight, location_loss_weight (float): factors of the losses.

        Raises:
            ValueError: if the levels have different numbers of shape samples, there is no such
                ``shape_loss_type``, the ratios are not 0 <= ``center_ratio`` <= ``ignore_ratio`` <=
                1, or :class:`SquareGenerator` refuses the sizes.
        """
        super().__init__()
        samples = sample_generator.num_anchors
        if len(set(samples)) > 1:
            raise ValueError(
                f"The anchor generator gives the levels {samples} shape samples per location; "
                "every level needs the same number of sizes times aspect ratios."
            )
        if shape_loss_type not in ("bounded_iou", "iou"):
            raise ValueError(
                f'shape_loss_type is "{shape_loss_type}"; it must be "bounded_iou" or "iou".'
            )
        if not 0 <= center_ratio <= ignore_ratio <= 1:
            raise ValueError(
                f"center_ratio is {center_ratio} and ignore_ratio {ignore_ratio}; they are shares "
                "of an object's sides, the second not below the first."
            )
        self.sample_generator = sample_generator
        self.square_generator = square_generator or SquareGenerator.of(sample_generator)
        self.shape_std = shape_std
        self.shape_matcher = shape_matcher or MaxIoUMatcher(
            (0.3, 0.7), labels=(0, -1, 1), min_iou=0.3
        )
        self.shape_batch_size_per_image = shape_batch_size_per_image
        self.shape_positive_fraction = shape_positive_fraction
        self.shape_loss_type = shape_loss_type
        self.shape_loss_beta = shape_loss_beta
        self.shape_loss_weight = shape_loss_weight
        self.location_thresh = location_thresh
        self.center_ratio = center_ratio
        self.ignore_ratio = ignore_ratio
        self.level_by_short_side = level_by_short_side
        self.location_focal_alpha = location_focal_alpha
        self.location_focal_gamma = location_focal_gamma
        self.location_loss_weight = location_loss_weight
        self.inverted_location_label = inverted_location_label

    @classmethod
    def from_config(cls, cfg: CfgNode, stage: CfgNode, sample_generator: DefaultAnchorGenerator):
        """
        Args:
            cfg (CfgNode): the config.
            stage (CfgNode): ``MODEL.GUIDED_ANCHOR.RPN`` or ``MODEL.GUIDED_ANCHOR.RETINANET``.
            sample_generator (DefaultAnchorGenerator): built from ``MODEL.ANCHOR_GENERATOR``.
        """
        node = cfg.MODEL.GUIDED_ANCHOR
        thresholds = stage.SHAPE_IOU_THRESHOLDS
        labels = [0, 1] if len(thresholds) == 1 else [0, -1, 1]
        return {
            "sample_generator": sample_generator,
            "square_generator": build_square_generator(
                cfg, sample_generator.strides, node.BASE_ASPECT_RATIO
            ),
            "shape_std": stage.SHAPE_STD,
            "shape_matcher": MaxIoUMatcher(thresholds, labels, stage.SHAPE_MIN_IOU),
            "shape_batch_size_per_image": node.SHAPE_BATCH_SIZE_PER_IMAGE,
            "shape_positive_fraction": node.SHAPE_POSITIVE_FRACTION,
            "shape_loss_type": node.SHAPE_LOSS_TYPE,
            "shape_loss_beta": node.SHAPE_LOSS_BETA,
            "shape_loss_weight": node.SHAPE_LOSS_WEIGHT,
            "location_thresh": node.LOCATION_THRESH,
            "center_ratio": node.CENTER_RATIO,
            "ignore_ratio": node.IGNORE_RATIO,
            "level_by_short_side": node.LEVEL_BY_SHORT_SIDE,
            "location_focal_alpha": node.LOCATION_FOCAL_ALPHA,
            "location_focal_gamma": node.LOCATION_FOCAL_GAMMA,
            "location_loss_weight": node.LOCATION_LOSS_WEIGHT,
            "inverted_location_label": node.INVERTED_LOCATION_LABEL,
        }

    def anchors(self, predictions: list[AnchorPrediction]) -> list[Tensor]:
        """The guided anchors of all locations.

        Returns:
            list[Tensor]: (N, H*W, 4) per level. Their gradient is for the shape loss alone.
        """
        shapes = [self.shape_std * flatten_hw(prediction.shape) for prediction in predictions]
        return decode_levels(self.squares(predictions), shapes)

    def predict_at_kept_locations(
        self,
        head: GuidedHead,
        predictions: list[AnchorPrediction],
        sparse: bool | None = None,
    ) -> list[list[tuple[Tensor, ...]]]:
        """Anchors, and what the head predicts for them, where the location probability is high
        enough. Every image has its own.

        Args:
            head (GuidedHead): has made the predictions.
            predictions (list[AnchorPrediction]): one per level.
            sparse (bool or None): whether to compute the kept locations of a level only, or all of
                them; None for what is faster.

        Returns:
            list[list[tuple[Tensor, ...]]]: for each image and level the anchors (Ri, 4) and
            the predictions of the head for them, (Ri, ...) each. Ri may be 0.
        """
        levels = []
        for squares, prediction in zip(self.squares(predictions), predictions, strict=True):
            keep = prediction.location.flatten(1).sigmoid() >= self.location_thresh
            image, cell = keep.nonzero().unbind(dim=1)
            shape = prediction.shape.flatten(2)[image, :, cell]
            anchors = decode_shapes(squares[cell], self.shape_std * shape)
            if _sparse_is_faster(cell, keep) if sparse is None else sparse:
                outputs = head.predict_at(prediction, image * len(squares) + cell)
            else:
                outputs = [x[image, cell] for x in head.predict(prediction)]
            levels.append(_by_image((anchors, *outputs), keep))
        return [list(image) for image in zip(*levels, strict=True)]

    def losses(
        self,
        predictions: list[AnchorPrediction],
        anchors: list[Tensor],
        gt_instances: list[Instances],
        valid: Tensor,
    ) -> dict[str, Tensor]:
        """
        Args:
            predictions (list[AnchorPrediction]): one per level.
            anchors (list[Tensor]): see :meth:`anchors`.
            gt_instances (list[Instances]): N of them, with "gt_boxes".
            valid (Tensor): (N, R) bool, which locations may have a shape target.

        Returns:
            dict[str, Tensor]: the scalars "loss_anchor_location" and "loss_anchor_shape".
        """
        gt_boxes = [x.gt_boxes.tensor for x in gt_instances]
        return {
            "loss_anchor_location": self._location_loss(predictions, gt_boxes),
            "loss_anchor_shape": self._shape_loss(predictions, anchors, gt_boxes, valid),
        }

    def _location_loss(self, predictions, gt_boxes):
        logits = torch.cat([flatten_hw(x.location) for x in predictions], dim=1)[..., 0]
        targets, weights = self.location_targets(gt_boxes, predictions)
        kept = (logits.detach().sigmoid() >= self.location_thresh).float().mean()
        put_scalars({"guided_anchor/share_of_locations": kept})
        loss = location_loss(
            logits,
            targets,
            weights,
            self.location_focal_alpha,
            self.location_focal_gamma,
            self.inverted_location_label,
        )
        normalizer = loss_normalizer(logits.numel() / LOCATIONS_PER_COUNT, logits.device)
        return self.location_loss_weight * loss / normalizer

    def location_targets(
        self, gt_boxes: list[Tensor], predictions: list[AnchorPrediction]
    ) -> tuple[Tensor, Tensor]:
        """:func:`location_targets` of N images."""
        generator = self.square_generator
        return location_targets(
            gt_boxes,
            [tuple(prediction.location.shape[2:]) for prediction in predictions],
            generator.strides,
            generator.sides,
            generator.offset,
            self.center_ratio,
            self.ignore_ratio,
            self.level_by_short_side,
        )

    def match_shapes(
        self, gt_boxes: list[Tensor], predictions: list[AnchorPrediction], valid: Tensor
    ) -> Match:
        """The shape targets of N images: the object that each location is matched with.

        A location's IoU with an object is that of the best of its A shape samples: the paper's vIoU
        (section 3.5).

        Args:
            gt_boxes (list[Tensor]): (M, 4) of each image.
            predictions (list[AnchorPrediction]): one per level; their sizes count.
            valid (Tensor): (N, R) bool, which locations may have a shape target.
        """
        return self.shape_matcher(gt_boxes, self.samples(predictions)[None], valid)

    def _shape_loss(self, predictions, anchors, gt_boxes, valid):
        match = self.match_shapes(gt_boxes, predictions, valid)
        positive, counts = self._sampled_positives(match.labels)
        anchors = torch.cat(anchors, dim=1).flatten(0, 1)[positive]
        targets = of_matched(gt_boxes, match.matched_idxs).flatten(0, 1)[positive]
        positives, negatives = counts.float().mean(dim=1)
        put_scalars(
            {
                "guided_anchor/num_pos_shapes": positives,
                "guided_anchor/num_neg_shapes": negatives,
            }
        )
        if self.shape_loss_type == "iou":
            count, loss = len(anchors), iou_loss(anchors, targets).sum()
        else:
            # Negatives have no loss, yet the published code counts them.
            count = counts.clamp(min=1).sum()
            loss = bounded_iou_loss(anchors, targets, self.shape_loss_beta)
        return self.shape_loss_weight * loss / loss_normalizer(count, loss.device)

    def _sampled_positives(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Sample locations as Detectron2's ``subsample_labels``, all images at once.

        Args:
            labels (Tensor): (N, R), see :class:`Match`.

        Returns:
            Tensor: (n,) the sampled positives, indices into the flattened (N, R).
            Tensor: (2, N) how many positives and negatives are sampled.
        """
        size = self.shape_batch_size_per_image
        most = min(int(size * self.shape_positive_fraction), labels.shape[1])
        positive = labels == 1
        chance = torch.rand(labels.shape, device=labels.device).masked_fill_(~positive, -1.0)
        chance, index = chance.topk(most, dim=1)
        start = torch.arange(len(labels), device=labels.device)[:, None] * labels.shape[1]
        num_positive = positive.sum(dim=1).clamp(max=most)
        num_negative = torch.minimum((labels == 0).sum(dim=1), size - num_positive)
        return (index + start)[chance >= 0], torch.stack([num_positive, num_negative])

    def squares(self, predictions):
        """The squares that anchors start from, (H*W, 4) per level."""
        boxes = self.square_generator([prediction.location for prediction in predictions])
        return [level.tensor for level in boxes]

    def samples(self, predictions):
        """The shape samples of all locations, (R, A, 4)."""
        levels = self.sample_generator([prediction.location for prediction in predictions])
        samples = self.sample_generator.num_anchors[0]
        return torch.cat([level.tensor.view(-1, samples, 4) for level in levels])


def _sparse_is_faster(kept: Tensor, mask: Tensor) -> bool:
    """Whether to compute a level at its kept locations only, the (n,) in the (N, H*W) mask."""
    if is_exporting():
        return False
    least = LEAST_LEFT_OUT.get(mask.device.type, LEAST_LEFT_OUT["cpu"])
    return len(kept) < SPARSE_SHARE * mask.numel() and mask.numel() - len(kept) >= least


def _by_image(values: tuple[Tensor, ...], keep: Tensor) -> list[tuple[Tensor, ...]]:
    """What (n, ...) values each of N images has at its kept locations, in the (N, H*W) mask."""
    if len(keep) == 1:  # also because a graph that is exported knows no number of locations
        return [values]
    counts = keep.sum(dim=1).tolist()
    return list(zip(*(x.split(counts) for x in values), strict=True))


class GivenLocations(nn.Module):
    """Takes the place of a location branch. The branch is computed too, for its time."""

    def __init__(self, branch: nn.Module, mask: Callable[[tuple[int, int]], Tensor]):
        """
        Args:
            branch (nn.Module): the location branch.
            mask (callable): takes the size (H, W) of a map and returns (H, W) bool.
        """
        super().__init__()
        self.branch = branch
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) features to (N, 1, H, W) logits of probabilities close to 0 and 1."""
        logits = self.branch(x)
        return (20.0 * self.mask(tuple(x.shape[2:])).to(x.device) - 10).expand_as(logits)


class GuidedAnchorStrategy(PredictedAnchorStrategy):
    """One anchor of predicted shape at each location that is likely an object's centre."""

    predicts_locations = True
    starts_from_sizes = True
    consequence = "they have no shape targets"

    def keys_for_aspect_ratio(self, ratio):
        samples = [float(f"{factor * ratio:.2g}") for factor in SAMPLED_ASPECT_RATIOS]
        return {
            "MODEL.GUIDED_ANCHOR.BASE_ASPECT_RATIO": ratio,
            "MODEL.GUIDED_ANCHOR.LEVEL_BY_SHORT_SIDE": True,
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [samples],
        }

    @property
    def positive_fractions(self):
        key = "MODEL.GUIDED_ANCHOR.SHAPE_BATCH_SIZE_PER_IMAGE"
        fraction = self.owner.guided_anchoring.shape_positive_fraction
        return {**super().positive_fractions, key: fraction}

    def config_problems(self):
        problems = super().config_problems()
        areas = [Boxes(x).area() for x in self.generator.cell_anchors]
        if all(x.max() < 1.01 * x.min() for x in areas):
            sizes = smallest_sizes(self.generator)
            octaves = [[round(size * 2 ** (i / 3), 3) for i in range(3)] for size in sizes]
            problem = ConfigProblem(
                "The shape samples of a level have one size, like RPN's anchors. The published "
                "config has three per octave, so that more of them overlap an object enough to "
                "be positive.",
                {"MODEL.ANCHOR_GENERATOR.SIZES": octaves},
            )
            problems.append(problem)
        return problems

    def _level_anchors(self, features, predictions, image_size):
        anchoring = self.owner.guided_anchoring
        threshold, generator = anchoring.location_thresh, anchoring.square_generator
        (levels,) = anchoring.predict_at_kept_locations(self.head, predictions)
        result = []
        for name, (anchors, logits, _), prediction, stride in zip(
            self.in_features, levels, predictions, generator.strides, strict=True
        ):
            probability = prediction.location[0, 0].sigmoid()
            height, width = self._valid_size(stride, generator.offset, image_size)
            valid = probability[:height, :width]
            result.append(
                LevelAnchors(
                    level=name,
                    boxes=anchors,
                    scores=logits.amax(dim=1).sigmoid(),
                    num_locations=probability.numel(),
                    num_kept=len(anchors),
                    location_scores=probability[probability >= threshold],
                    location_map=LocationMap(name, valid, threshold, stride, generator.offset),
                )
            )
        return result

    def _assignments(self, features, predictions, image_size, objects):
        anchoring = self.owner.guided_anchoring
        anchors = torch.cat(anchoring.anchors(predictions), dim=1)[0]
        valid = anchoring.square_generator.valid_mask(features, [image_size])
        match = anchoring.match_shapes([objects.gt_boxes.tensor], predictions, valid)
        return [
            self._matched("shape, by IoU of the shape samples", anchors, match, objects),
            self._class_and_box_assignment(anchors, valid, objects),
        ]

    def coverage(self, boxes, image_sizes, generator=None):
        """Location targets are on the level of the object's size; shape targets are where a shape
        sample, on any level, has a high enough IoU with the object."""
        anchoring = self.owner.guided_anchoring
        sides = anchoring.square_generator.sides if generator is None else smallest_sizes(generator)
        matcher = anchoring.shape_matcher
        threshold = min(matcher.min_iou, matcher.thresholds[-1])
        iou, centered_iou = best_preset_iou(boxes, image_sizes, generator or self.generator)
        best = iou.amax(dim=1)
        levels = torch.arange(len(sides), device=boxes.device)
        return Coverage(
            iou=best,
            centered_iou=centered_iou,
            levels=object_levels(boxes, sides, anchoring.level_by_short_side)[:, None] == levels,
            reached=best >= threshold,
            threshold=threshold,
        )

    def _head_parts(self):
        return [
            Part("head: anchor prediction", self.head, "forward"),
            Part("head: class and box", self.head, "predict"),
            Part("head: class and box", self.owner.guided_anchoring, "predict_at_kept_locations"),
        ]

    @contextmanager
    def kept_locations(self, mask):
        branch = self.head.conv_loc
        self.head.conv_loc = GivenLocations(branch, mask)
        try:
            yield
        finally:
            self.head.conv_loc = branch

    @torch.no_grad()
    def predict_at_kept_locations(self, predictions, *, sparse):
        (levels,) = self.owner.guided_anchoring.predict_at_kept_locations(
            self.head, predictions, sparse
        )
        return levels
