"""torch.compile where it pays: in the backbone and the head."""

from torch import nn

from anchor_heads.anchor_generation.strategy import get_anchor_strategy


def compile_model(model: nn.Module, **kwargs) -> None:
    """Compile the backbone and the head of a model, in place, for training and inference.

    Of the head, what its ``forward`` computes: a method's further steps stay eager. What comes
    after the head has sizes that depend on the image's anchors and objects, and stays
    eager. The names of parameters stay as they are.

    Args:
        model (nn.Module): a dense detector, GeneralizedRCNN or ProposalNetwork.
        kwargs: see :func:`torch.compile`.

    Raises:
        TypeError: if the model has no anchors.
    """
    for part in (model.backbone, get_anchor_strategy(model).head):
        part.compile(**kwargs)
