"""ImageNet ResNets and ResNeXts with the names of torchvision, which mmdetection also uses."""

from anchor_heads.checkpoint.formats import Format
from anchor_heads.checkpoint.resnet import BACKBONE_PREFIX, resnet_names

BACKBONE = Format(
    framework="torchvision or mmdetection",
    model="ImageNet backbone",
    signature_keys=(r"conv1\.weight", r"layer1\.0\.conv1\.weight", r"layer4\.0\.conv1\.weight"),
    names=resnet_names(source="", stem=""),
    unused=(r"fc\.(weight|bias)",),  # the classifier
    note="torchvision's weights need the pixel statistics and strides of Base-X_101_32x4d.yaml.",
    fills=BACKBONE_PREFIX,
)

FORMATS = (BACKBONE,)
