"""From predictions to anchors, and what the predictions should have been.

Shape shorthand in this module:

    N: number of images
    H, W: height and width of a feature level
    R: number of locations of one image, over all levels
    A: number of shape samples at a location
    n: number of chosen locations; a location is an index into the flattened (N, H, W)
"""

from collections.abc import Callable

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from anchor_heads.anchor_generation import SquareGenerator, build_square_generator, decode_shapes
from anchor_heads.layers import bounded_iou_loss, flatten_hw, rows_at
from anchor_heads.modeling.distributed import loss_normalizer
from anchor_heads.modeling.matching import build_max_iou_matcher, match_valid

from .head import AnchorPrediction, GuidedHead
from .losses import location_loss
from .targets import location_targets

# The published code divides the location loss by the number of locations over this.
LOCATIONS_PER_COUNT = 200

# At test time a level is judged only where anchors are wanted if these are fewer than this share of
# its locations. GA-RetinaNet on a CPU gains up to about here; on a GPU it was not measured.
SPARSE_SHARE = 0.7


class GuidedAnchoring(nn.Module):
    """Guided anchors, and the losses of their location and shape (paper: Guided Anchoring).

    It is the part that the proposal generator and the detector share; it has no parameters.
    """

    @configurable
    def __init__(
        self,
        *,
        sample_generator: DefaultAnchorGenerator,
        square_generator: SquareGenerator,
        shape_std: float,
        shape_matcher: Callable,
        shape_batch_size_per_image: int,
        shape_positive_fraction: float,
        shape_loss_beta: float,
        shape_loss_weight: float,
        location_thresh: float,
        center_ratio: float,
        ignore_ratio: float,
        location_focal_alpha: float,
        location_focal_gamma: float,
        location_loss_weight: float,
        inverted_location_label: bool,
    ):
        """
        Args:
            sample_generator (DefaultAnchorGenerator): generator of A shape samples per location;
                the IoU of an object with a location is that with the best of them.
            square_generator (SquareGenerator): generator of one square per location.
            shape_std (float): scale of the shape prediction.
            shape_matcher (callable): matches objects with shape samples, see
                :func:`build_max_iou_matcher`.
            shape_batch_size_per_image (int): locations drawn for the shape loss.
            shape_positive_fraction (float): how many of them at most are positive.
            shape_loss_beta (float): where smooth L1 in the shape loss becomes linear.
            location_thresh (float): at test time, the least probability of a location.
            center_ratio, ignore_ratio (float): see :func:`location_targets`.
            location_focal_alpha, location_focal_gamma (float): of the location loss.
            inverted_location_label (bool): train the location the wrong way round, as
                mmdetection 2.x does.
            shape_loss_weight, location_loss_weight (float): factors of the losses.
        """
        super().__init__()
        samples = sample_generator.num_anchors
        if len(set(samples)) > 1:
            raise ValueError(
                f"MODEL.ANCHOR_GENERATOR gives the levels {samples} shape samples per location; "
                "every level needs the same number of sizes times aspect ratios."
            )
        self.sample_generator = sample_generator
        self.square_generator = square_generator
        self.shape_std = shape_std
        self.shape_matcher = shape_matcher
        self.shape_batch_size_per_image = shape_batch_size_per_image
        self.shape_positive_fraction = shape_positive_fraction
        self.shape_loss_beta = shape_loss_beta
        self.shape_loss_weight = shape_loss_weight
        self.location_thresh = location_thresh
        self.center_ratio = center_ratio
        self.ignore_ratio = ignore_ratio
        self.location_focal_alpha = location_focal_alpha
        self.location_focal_gamma = location_focal_gamma
        self.location_loss_weight = location_loss_weight
        self.inverted_location_label = inverted_location_label

    @classmethod
    def from_config(cls, cfg: CfgNode, user: CfgNode, sample_generator: DefaultAnchorGenerator):
        """
        Args:
            cfg (CfgNode): the config.
            user (CfgNode): ``MODEL.GUIDED_ANCHOR.RPN`` or ``MODEL.GUIDED_ANCHOR.RETINANET``.
            sample_generator (DefaultAnchorGenerator): built from ``MODEL.ANCHOR_GENERATOR``.
        """
        node = cfg.MODEL.GUIDED_ANCHOR
        thresholds = user.SHAPE_IOU_THRESHOLDS
        labels = [0, 1] if len(thresholds) == 1 else [0, -1, 1]
        return {
            "sample_generator": sample_generator,
            "square_generator": build_square_generator(cfg, sample_generator.strides),
            "shape_std": user.SHAPE_STD,
            "shape_matcher": build_max_iou_matcher(thresholds, labels, user.SHAPE_MIN_IOU),
            "shape_batch_size_per_image": node.SHAPE_BATCH_SIZE_PER_IMAGE,
            "shape_positive_fraction": node.SHAPE_POSITIVE_FRACTION,
            "shape_loss_beta": node.SHAPE_LOSS_BETA,
            "shape_loss_weight": node.SHAPE_LOSS_WEIGHT,
            "location_thresh": node.LOCATION_THRESH,
            "center_ratio": node.CENTER_RATIO,
            "ignore_ratio": node.IGNORE_RATIO,
            "location_focal_alpha": node.LOCATION_FOCAL_ALPHA,
            "location_focal_gamma": node.LOCATION_FOCAL_GAMMA,
            "location_loss_weight": node.LOCATION_LOSS_WEIGHT,
            "inverted_location_label": node.INVERTED_LOCATION_LABEL,
        }

    def anchors(self, guides: list[AnchorPrediction]) -> list[Tensor]:
        """The guided anchors of all locations.

        Returns:
            list[Tensor]: (N, H*W, 4) per level, without gradient.
        """
        return [
            decode_shapes(squares, self.shape_std * flatten_hw(guide.shape).detach())
            for squares, guide in zip(self._squares(guides), guides, strict=True)
        ]

    def predict_at_kept_locations(
        self, head: GuidedHead, guides: list[AnchorPrediction]
    ) -> list[list[tuple[Tensor, ...]]]:
        """Anchors, and what the head predicts for them, where the location probability is high
        enough. Every image has its own.

        Returns:
            list[list[tuple[Tensor, ...]]]: for each image and level the anchors (Ri, 4) and
            the predictions of the head for them, (Ri, ...) each. Ri may be 0.
        """
        levels = []
        for squares, guide in zip(self._squares(guides), guides, strict=True):
            wanted = guide.location.sigmoid() >= self.location_thresh
            locations = wanted.flatten().nonzero()[:, 0]
            shape = rows_at(guide.shape, locations)
            anchors = decode_shapes(squares[locations % len(squares)], self.shape_std * shape)
            if len(locations) < SPARSE_SHARE * wanted.numel():
                predictions = head.predict_at(guide, locations)
            else:
                predictions = [x.flatten(0, 1)[locations] for x in head.predict(guide)]
            counts = wanted.flatten(1).sum(dim=1).tolist()
            rows = (anchors, *predictions)
            levels.append(zip(*(x.split(counts) for x in rows), strict=True))
        return [list(image) for image in zip(*levels, strict=True)]

    def losses(
        self, guides: list[AnchorPrediction], gt_instances: list[Instances], valid: Tensor
    ) -> dict[str, Tensor]:
        """
        Args:
            guides (list[AnchorPrediction]): one per level.
            gt_instances (list[Instances]): N of them, with "gt_boxes".
            valid (Tensor): (N, R) bool, which locations may learn a shape.

        Returns:
            dict[str, Tensor]: the scalars "loss_anchor_location" and "loss_anchor_shape".
        """
        gt_boxes = [x.gt_boxes.tensor for x in gt_instances]
        return {
            "loss_anchor_location": self._location_loss(guides, gt_boxes),
            "loss_anchor_shape": self._shape_loss(guides, gt_boxes, valid),
        }

    def _location_loss(self, guides, gt_boxes):
        logits = torch.cat([flatten_hw(guide.location) for guide in guides], dim=1)[..., 0]
        targets, weights = (
            torch.stack(x).to(logits.device)
            for x in zip(
                *(self._location_targets(boxes, guides) for boxes in gt_boxes), strict=True
            )
        )
        kept = (logits.detach().sigmoid() >= self.location_thresh).float().mean().item()
        get_event_storage().put_scalar("guided_anchor/share_of_locations", kept)
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

    def _location_targets(self, gt_boxes, guides):
        generator = self.square_generator
        return location_targets(
            gt_boxes,
            [tuple(guide.location.shape[2:]) for guide in guides],
            generator.strides,
            generator.sides,
            generator.offset,
            self.center_ratio,
            self.ignore_ratio,
        )

    def _shape_loss(self, guides, gt_boxes, valid):
        samples = self._samples(guides)
        squares = torch.cat(self._squares(guides))
        shapes = torch.cat([flatten_hw(guide.shape) for guide in guides], dim=1)
        anchors, targets, drawn = [], [], []
        for shapes_i, boxes, valid_i in zip(shapes, gt_boxes, valid, strict=True):
            match = match_valid(self.shape_matcher, boxes, samples, valid_i)
            positive, negative = subsample_labels(
                match.labels, self.shape_batch_size_per_image, self.shape_positive_fraction, 0
            )
            anchors.append(decode_shapes(squares[positive], self.shape_std * shapes_i[positive]))
            targets.append(boxes[match.objects[positive]])
            drawn.append((len(positive), len(negative)))
        storage = get_event_storage()
        for name, counts in zip(("pos", "neg"), zip(*drawn, strict=True), strict=True):
            storage.put_scalar(f"guided_anchor/num_{name}_shapes", sum(counts) / len(counts))
        # Negatives have no loss, yet the published code counts them.
        count = sum(max(x, 1) for counts in drawn for x in counts)
        loss = bounded_iou_loss(torch.cat(anchors), torch.cat(targets), self.shape_loss_beta)
        return self.shape_loss_weight * loss / loss_normalizer(count, loss.device)

    def _squares(self, guides):
        """(H*W, 4) per level."""
        boxes = self.square_generator([guide.location for guide in guides])
        return [level.tensor for level in boxes]

    def _samples(self, guides):
        """(R, A, 4)."""
        levels = self.sample_generator([guide.location for guide in guides])
        samples = self.sample_generator.num_anchors[0]
        return torch.cat([level.tensor.view(-1, samples, 4) for level in levels])
