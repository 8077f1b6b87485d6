"""Names of ResNets and ResNeXts. All frameworks here have torchvision's, Detectron2 has its own."""

HERE = "backbone.bottom_up."


def resnet_names(source: str, stem: str) -> dict[str, str]:
    """Patterns of the keys of a ResNet, and their names here.

    Args:
        source (str): pattern of what comes before all keys.
        stem (str): pattern of what comes between that and the keys of the stem.
    """
    names = {
        rf"{source}{stem}conv1\.weight": f"{HERE}stem.conv1.weight",
        rf"{source}{stem}bn1\.(\w+)": rf"{HERE}stem.conv1.norm.\1",
    }
    for stage in range(1, 5):
        theirs, ours = rf"{source}layer{stage}\.(\d+)", rf"{HERE}res{stage + 1}.\1"
        names |= {
            rf"{theirs}\.conv(\d)\.weight": rf"{ours}.conv\2.weight",
            rf"{theirs}\.bn(\d)\.(\w+)": rf"{ours}.conv\2.norm.\3",
            rf"{theirs}\.downsample\.0\.weight": rf"{ours}.shortcut.weight",
            rf"{theirs}\.downsample\.1\.(\w+)": rf"{ours}.shortcut.norm.\2",
        }
    return names
