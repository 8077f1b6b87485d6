"""ResNets and ResNeXts trained on ImageNet, as torchvision names them, and mmdetection after it."""

from anchor_heads.checkpoint.formats import Format
from anchor_heads.checkpoint.resnet import HERE, resnet_names

BACKBONE = Format(
    framework="torchvision or mmdetection",
    model="ImageNet backbone",
    marks=(r"conv1\.weight", r"layer1\.0\.conv1\.weight", r"layer4\.0\.conv1\.weight"),
    names=resnet_names(source="", stem=""),
    unused=(r"fc\.(weight|bias)",),  # the classifier
    note="Those of torchvision go with the pixels and the stride of Base-X_101_32x4d.yaml.",
    fills=HERE,
)

FORMATS = (BACKBONE,)
