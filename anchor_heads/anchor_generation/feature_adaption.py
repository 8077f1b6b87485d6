import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anchor_heads.layers import DeformConv, rows_at

# Parts of the channels that move independently, as published.
OFFSET_GROUPS = 4


class FeatureAdaption(nn.Module):
    """Makes a feature fit the shape of the anchor at each location.

    A 3x3 deformable convolution whose offsets are a linear function of the predicted shape
    (Guided Anchoring, "anchor-guided feature adaptation"). No gradient flows back to the shape.
    Computed in float32, also under autocast and with weights in half precision.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kaiming_init: bool = False,
    ):
        """
        Args:
            in_channels (int): channels of the feature.
            out_channels (int): channels of the result.
            kaiming_init (bool): whether the result starts at the scale of the feature (Kaiming
                initialization). False: weights with a standard deviation of 0.01, as published for
                256 channels; with fewer channels the result starts close to 0.

        Raises:
            ValueError: if the channels cannot be divided into ``OFFSET_GROUPS`` parts.
        """
        super().__init__()
        if in_channels % OFFSET_GROUPS:
            raise ValueError(
                f"The feature has {in_channels} channels, which cannot be divided into "
                f"{OFFSET_GROUPS} parts of the same size. Choose the channels of the FPN, or of "
                "the head's own convolutions, accordingly."
            )
        self.conv_offset = nn.Conv2d(2, OFFSET_GROUPS * 2 * 9, kernel_size=1, bias=False)
        self.conv_adaption = DeformConv(in_channels, out_channels, kernel_size=3)
        nn.init.normal_(self.conv_offset.weight, std=0.1)
        if kaiming_init:
            nn.init.kaiming_normal_(self.conv_adaption.weight, nonlinearity="relu")
        else:
            nn.init.normal_(self.conv_adaption.weight, std=0.01)

    def forward(self, x: Tensor, shape: Tensor) -> Tensor:
        """
        Args:
            x (Tensor): (N, in_channels, H, W).
            shape (Tensor): (N, 2, H, W), the raw shape prediction.

        Returns:
            Tensor: (N, out_channels, H, W), not negative.
        """
        with torch.autocast(x.device.type, enabled=False):
            offset = self.conv_offset(self._input(shape))
            return F.relu(self.conv_adaption(x, offset))

    def forward_sparse(self, x: Tensor, shape: Tensor, locations: Tensor) -> Tensor:
        """What :meth:`forward` has at (n,) locations, indices into the flattened (N, H, W).

        Returns:
            Tensor: (n, out_channels).
        """
        with torch.autocast(x.device.type, enabled=False):
            shape = rows_at(self._input(shape), locations)
            offset = F.linear(shape, self.conv_offset.weight.flatten(1))
            return F.relu(self.conv_adaption.forward_sparse(x, offset, locations))

    def _input(self, shape):
        return shape.detach().to(self.conv_offset.weight.dtype)
