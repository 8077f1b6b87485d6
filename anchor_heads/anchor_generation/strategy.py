"""The interface through which tools see a model's anchors.

:func:`get_anchor_strategy` finds the :class:`AnchorStrategy` of a model. It answers four questions
in the same form for every method:

1. :meth:`~AnchorStrategy.level_anchors`: which anchors has this image, with what score?
2. :meth:`~AnchorStrategy.assignments`: which object is each assigned to in training?
3. :meth:`~AnchorStrategy.losses`: what are the losses of a batch?
4. :meth:`~AnchorStrategy.coverage`: which objects of a data set can no anchor reach?

A method registers the strategy of its meta architecture and of its proposal generator with
``get_anchor_strategy.register(cls, strategy_class)``. Subclasses of Detectron2's RetinaNet and RPN
that register none are taken for what they are derived from.

Shape shorthand in this module:

    Ri: number of anchors of one image on level i; may be 0
    n: number of assigned anchors
    M: number of objects
    L: number of feature levels
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import singledispatch
from typing import NamedTuple

import torch
from detectron2.modeling import GeneralizedRCNN, ProposalNetwork
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class LocationMap(NamedTuple):
    """How likely an object has its centre at each location of one level."""

    level: str
    """Name of the feature map."""
    probability: Tensor
    """(H, W), in [0, 1]; of the locations on the image, without those in its padding."""
    threshold: float
    """There are anchors only where the probability is at least this."""
    stride: int
    """Pixels from one location to the next."""
    offset: float
    """Where the first location lies, as a share of the stride."""


@dataclass(frozen=True)
class LevelAnchors:
    """The anchors of one level. The padding of the image has locations and anchors too."""

    level: str
    """Name of the feature map."""
    boxes: Tensor
    """(Ri, 4) in pixels of the network's input, not clipped to the image."""
    scores: Tensor
    """(Ri,) in [0, 1], by which the model ranks what it makes of the anchors."""
    num_locations: int
    """Locations of the feature map."""
    num_kept: int
    """Locations that have anchors."""
    location_scores: Tensor | None = None
    """(Ri,) the location probability of each anchor, of methods that predict it."""
    location_map: LocationMap | None = None
    """The location probability of the level, of methods that predict it."""


@dataclass(frozen=True)
class Assignment:
    """The positive anchors of one image, by one assignment rule."""

    rule: str
    """What is assigned by which rule, in a few words."""
    boxes: Tensor
    """(n, 4) anchors, in pixels of the network's input."""
    matched_idxs: Tensor
    """(n,) int64, the object that each is assigned to."""
    scores: Tensor
    """(n,) in [0, 1], how well each fits its object."""
    score_name: str
    """What ``scores`` are, in a word or two."""
    num_anchors: int
    """Anchors of the image, assigned or not."""


@dataclass(frozen=True)
class Coverage:
    """Which of M objects the anchors can reach."""

    iou: Tensor
    """(M,) the highest IoU of the object with an anchor that is there, or can be predicted, for
    it."""
    centered_iou: Tensor
    """(M,) the same for an anchor around the centre of the object, where no location may be."""
    levels: Tensor
    """(M, L) bool, the levels that the object is assigned to."""
    reached: Tensor
    """(M,) bool, whether an anchor fits the object well enough to be trained for it."""
    threshold: float
    """The least IoU of objects that are reached; 0 if IoU does not decide."""


@dataclass(frozen=True)
class Part:
    """A method of a module, in which a model does one part of its work."""

    name: str
    """What it does; "part: part of the part" within a part."""
    owner: nn.Module
    method: str


class ConfigProblem(NamedTuple):
    """A setting of another method that does not suit this one."""

    sentence: str
    changes: dict[str, object]
    """Values of config keys to write instead."""


class AnchorStrategy(ABC):
    """What tools ask of a model about its anchors.

    Attributes:
        model (nn.Module): the model: a dense detector, GeneralizedRCNN or ProposalNetwork.
        owner (nn.Module): the part that has the anchors: the dense detector, or the model's
            proposal generator.
        head (nn.Module): predicts from the features, for the anchors.
        in_features (list[str]): the feature maps that it takes, from fine to coarse.
        num_classes (int): classes that the head tells apart; 1 for a proposal generator.
        one_stage (bool): whether the owner is a dense detector.
        predicts_locations (bool): whether only some locations have anchors, by a prediction.
        starts_from_sizes (bool): whether the preset sizes are where predicted shapes start from.
        consequence (str): what happens to objects that no anchor reaches, as a clause.
    """

    predicts_locations = False
    starts_from_sizes = False
    consequence = "only the anchor with the highest IoU is positive"

    def __init__(self, owner: nn.Module, model: nn.Module | None = None):
        """
        Args:
            owner (nn.Module): a dense detector, or a proposal generator.
            model (nn.Module or None): what the owner is a part of; None for itself, if the owner
                is a detector.

        Raises:
            TypeError: if the anchors are not upright boxes.
        """
        self.owner = owner
        self.model = owner if model is None else model
        self.one_stage = not isinstance(owner, RPN)
        if self.one_stage:
            self.head, in_features = owner.head, owner.head_in_features
            self.num_classes = owner.num_classes
        else:
            self.head, in_features = owner.rpn_head, owner.in_features
            self.num_classes = 1
        self.in_features = list(in_features)
        if self.generator.box_dim != 4:
            raise TypeError(
                f"{type(owner).__name__} has rotated anchors, not upright boxes. RetinaNet, RPN "
                "and the models of this package have."
            )

    @property
    def generator(self) -> DefaultAnchorGenerator:
        """The generator of the preset shapes that :meth:`coverage` is about."""
        return self.owner.anchor_generator

    def preprocess(self, image: Tensor) -> ImageList:
        """One image (C, H, W), resized, as the model's backbone takes it."""
        model, backbone = self.model, self.model.backbone
        image = (image.to(model.pixel_mean) - model.pixel_mean) / model.pixel_std
        return ImageList.from_tensors(
            [image], backbone.size_divisibility, padding_constraints=backbone.padding_constraints
        )

    def features(self, images: ImageList) -> list[Tensor]:
        """The features that :attr:`head` takes, (N, C, Hi, Wi) per level."""
        features = self.model.backbone(images.tensor)
        return [features[name] for name in self.in_features]

    def keys_for_aspect_ratio(self, ratio: float) -> dict[str, object]:
        """Config keys with which anchors start from boxes of an aspect ratio, height over width.
        None for preset anchors: what these should be is not one ratio."""
        return {}

    @torch.no_grad()
    def level_anchors(
        self, features: list[Tensor], predictions, image_size: tuple[int, int]
    ) -> list[LevelAnchors]:
        """The anchors of one image, per level.

        Args:
            features (list[Tensor]): (1, C, Hi, Wi) per level.
            predictions: what :attr:`head` returns for them.
            image_size (tuple[int, int]): height and width without padding.
        """
        return self._level_anchors(features, predictions, image_size)

    @torch.no_grad()
    def assignments(
        self, features: list[Tensor], predictions, image_size: tuple[int, int], objects: Instances
    ) -> list[Assignment]:
        """The object that each anchor of one image is assigned to, one entry for each rule of
        training; the last is that of class and box.

        Args:
            features, predictions, image_size: see :meth:`level_anchors`.
            objects (Instances): with "gt_boxes" and "gt_classes", in the frame of ``image_size``.

        Raises:
            ValueError: if an object is of a class that the model does not know.
        """
        last = int(objects.gt_classes.max()) if len(objects) else 0
        if self.one_stage and last >= self.num_classes:
            raise ValueError(
                f"An object is of class {last}, but the model knows the classes 0 to "
                f"{self.num_classes - 1}: the data set is not the one that the model was trained "
                "for."
            )
        return self._assignments(features, predictions, image_size, objects)

    @abstractmethod
    def _level_anchors(self, features, predictions, image_size) -> list[LevelAnchors]:
        """See :meth:`level_anchors`."""

    @abstractmethod
    def _assignments(self, features, predictions, image_size, objects) -> list[Assignment]:
        """See :meth:`assignments`."""

    def losses(
        self, images: ImageList, features: list[Tensor], predictions, gt_instances: list[Instances]
    ) -> dict[str, Tensor]:
        """The losses of a batch of N images, inside an EventStorage.

        Args:
            images (ImageList): N images.
            features (list[Tensor]): (N, C, Hi, Wi) per level.
            predictions: what :attr:`head` returns for them.
            gt_instances (list[Instances]): N of them, with "gt_boxes" and "gt_classes".
        """
        return self.owner.forward_training(images, features, predictions, gt_instances)

    @property
    def positive_fractions(self) -> dict[str, float]:
        """Of the anchors that a step samples in an image, by the config key of their number, the
        share that may be positive. Empty if all anchors are used."""
        if self.one_stage:
            return {}
        return {"MODEL.RPN.BATCH_SIZE_PER_IMAGE": self.owner.positive_fraction}

    def config_problems(self) -> list[ConfigProblem]:
        """What in the config spoils the training by this method, though it may suit another."""
        return []

    @abstractmethod
    def coverage(
        self, boxes: Tensor, image_sizes: Tensor, generator: DefaultAnchorGenerator | None = None
    ) -> Coverage:
        """Which objects the anchors can reach, whatever the weights.

        Args:
            boxes (Tensor): (M, 4) objects of any images, at the size of the network's input.
            image_sizes (Tensor): (M, 2) height and width of the image of each, without padding.
            generator (DefaultAnchorGenerator or None): preset shapes to try instead of
                :attr:`generator`, on the same strides.
        """

    def parts(self) -> list[Part]:
        """The parts of the work of :attr:`owner`. Their methods may call each other."""
        if self.one_stage:
            work = [
                Part("post-processing", self.owner, "forward_inference"),
                Part("assignment and loss", self.owner, "forward_training"),
            ]
        else:
            whole = "assignment and loss" if self.owner.training else "post-processing"
            work = [
                Part(whole, self.owner, "forward"),
                Part("post-processing", self.owner, "predict_proposals"),
            ]
        return [*self._head_parts(), *work]

    def _head_parts(self) -> list[Part]:
        return [Part("head", self.head, "forward")]

    @contextmanager
    def kept_locations(self, mask: Callable[[tuple[int, int]], Tensor]) -> Iterator[None]:
        """Inside the context the model keeps the locations of a mask instead of those that it
        predicts; the prediction is still computed. Nothing changes if it predicts none.

        Args:
            mask (callable): takes the size (H, W) of a feature map and returns (H, W) bool.
        """
        yield

    def predict_at_kept_locations(self, predictions, *, sparse: bool) -> list[tuple[Tensor, ...]]:
        """What the head of a model that :attr:`predicts_locations` predicts there for one image.

        Args:
            predictions: what :attr:`head` returns for one image.
            sparse (bool): compute it at the kept locations only, or everywhere and pick it.

        Returns:
            list[tuple[Tensor, ...]]: per level the anchors (Ri, 4) and the predictions for them.
        """
        raise NotImplementedError(f"{type(self.owner).__name__} keeps all locations.")

    def _valid_size(self, stride: int, offset: float, image_size) -> tuple[int, int]:
        """Rows and columns of the locations on an image, without those in its padding."""
        return tuple(max(1, int(-(-(size - offset * stride) // stride))) for size in image_size)


@singledispatch
def get_anchor_strategy(model: nn.Module, whole: nn.Module | None = None) -> AnchorStrategy:
    """The anchor strategy of a model.

    Args:
        model (nn.Module): a dense detector, proposal generator, GeneralizedRCNN or
            ProposalNetwork, or the DistributedDataParallel module around it.
        whole (nn.Module or None): what a proposal generator is a part of.

    Raises:
        TypeError: if the model has no anchors, or none that are upright boxes.
    """
    raise TypeError(
        f"{type(model).__name__} has no anchor strategy. RetinaNet, RPN and the models of this "
        "package have; another class registers its own with get_anchor_strategy.register."
    )


def warn_of_config_problems(owner: nn.Module) -> None:
    """Log a warning for each of :meth:`AnchorStrategy.config_problems`.

    Args:
        owner (nn.Module): a dense detector or a proposal generator, complete.
    """
    if next(owner.parameters()).is_meta:  # built for the names and shapes of its weights only
        return
    for sentence, changes in get_anchor_strategy(owner).config_problems():
        instead = ", ".join(f"{key} {value}" for key, value in changes.items())
        logger.warning(f"{type(owner).__name__}: {sentence} Set {instead}.")


@get_anchor_strategy.register(type(None))
def _precomputed(model: None, whole: nn.Module | None = None):
    raise TypeError(
        f"This {type(whole).__name__} gets precomputed proposals and has no anchors. Name a "
        "proposal generator in MODEL.PROPOSAL_GENERATOR.NAME, such as RPN."
    )


@get_anchor_strategy.register(nn.parallel.DistributedDataParallel)
def _distributed(model, whole=None):
    return get_anchor_strategy(model.module)


@get_anchor_strategy.register(GeneralizedRCNN)
@get_anchor_strategy.register(ProposalNetwork)
def _two_stage(model, whole=None):
    return get_anchor_strategy(model.proposal_generator, model)
