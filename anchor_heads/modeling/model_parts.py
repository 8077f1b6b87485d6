"""The parts of a Detectron2 model, found alike in one-stage and two-stage models."""

from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import ImageList
from torch import Tensor, nn


def anchor_part(model: nn.Module) -> nn.Module | None:
    """The part that has the anchors: the model itself, or its proposal generator.

    Args:
        model (nn.Module): a dense detector, GeneralizedRCNN or ProposalNetwork.

    Returns:
        nn.Module or None: None for a model of precomputed proposals.
    """
    return getattr(model, "proposal_generator", model)


def anchor_head(model: nn.Module) -> nn.Module:
    """What predicts from the features, for the anchors of :func:`anchor_part`."""
    part = anchor_part(model)
    return part.rpn_head if hasattr(part, "rpn_head") else part.head


def preprocess(model: nn.Module, image: Tensor) -> ImageList:
    """One image (C, H, W), resized, as the model's backbone takes it."""
    # A method of GeneralizedRCNN, but all these models have what it uses.
    return GeneralizedRCNN.preprocess_image(model, [{"image": image}])


def head_features(model: nn.Module, images: ImageList) -> list[Tensor]:
    """The features that :func:`anchor_head` takes, (N, C, Hi, Wi) per level."""
    part = anchor_part(model)
    names = part.in_features if hasattr(part, "in_features") else part.head_in_features
    features = model.backbone(images.tensor)
    return [features[name] for name in names]
