"""Names of ResNets and ResNeXts: torchvision's, which all frameworks use, and Detectron2's."""

BACKBONE_PREFIX = "backbone.bottom_up."


def resnet_names(source: str, stem: str) -> dict[str, str]:
    """Patterns of the keys of a ResNet, and their names in Detectron2.

    Args:
        source (str): pattern of the prefix of all keys.
        stem (str): pattern of a further prefix of the keys of the stem.
    """
    names = {
        rf"{source}{stem}conv1\.weight": f"{BACKBONE_PREFIX}stem.conv1.weight",
        rf"{source}{stem}bn1\.(\w+)": rf"{BACKBONE_PREFIX}stem.conv1.norm.\1",
    }
    for stage in range(1, 5):
        theirs, ours = rf"{source}layer{stage}\.(\d+)", rf"{BACKBONE_PREFIX}res{stage + 1}.\1"
        names |= {
            rf"{theirs}\.conv(\d)\.weight": rf"{ours}.conv\2.weight",
            rf"{theirs}\.bn(\d)\.(\w+)": rf"{ours}.conv\2.norm.\3",
            rf"{theirs}\.downsample\.0\.weight": rf"{ours}.shortcut.weight",
            rf"{theirs}\.downsample\.1\.(\w+)": rf"{ours}.shortcut.norm.\2",
        }
    return names
