"""Command lines that cannot be meant end in one line, with exit code 2, and write nothing."""

from importlib.util import find_spec

import pytest
from tiny_run import write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model with its data, and files that are not what they seem."""
    folder = tmp_path_factory.mktemp("bad_command_lines")
    write_model(folder)
    (folder / "text.txt").write_text("hello")
    (folder / "clip.mp4").touch()
    (folder / "empty").mkdir()
    voc = folder / "voc"
    (voc / "Annotations").mkdir(parents=True)
    (voc / "JPEGImages").mkdir()
    (voc / "Annotations/0.xml").write_text("<annotation><object>")
    (voc / "JPEGImages/0.png").write_bytes((folder / "0.png").read_bytes())
    return folder


MODEL = "--config-file config.yaml --weights model.pth"
INT8 = "--precision int8 --calibration-images"
# What is typed in the folder, and what is said.
LINES = [
    ("foo", "invalid choice: 'foo'"),
    (f"predict {MODEL}", "name at least one INPUT, or a --camera"),
    (f"predict {MODEL} 0.png", "say what to make: --output FOLDER, --json FILE or --show"),
    (f"predict {MODEL} none.png --json x.json", "There is no file or folder"),
    (f"predict {MODEL} none*.png --json x.json", "There is no file or folder"),
    (f"predict {MODEL} empty --json x.json", "There is no image or video in"),
    (f"predict {MODEL} 0.png --json empty", "empty is a folder: name a file"),
    (f"predict {MODEL} 0.png --json 0.png --force", "is read and would be overwritten"),
    (f"predict {MODEL} 0.png --json text.txt", "1 of 1 output files exist"),
    (f"predict {MODEL} 0.png --json x.json --score-threshold nan", "nan must be from 0 to 1"),
    (f"predict {MODEL} 0.png --json x.json --score-threshold 2", "2 must be from 0 to 1"),
    (f"predict {MODEL} 0.png --json x.json --score-threshold high", "invalid score value: 'high'"),
    (f"predict {MODEL} 0.png --json x.json --class-names a", "has 2 classes, and --class-names 1"),
    (f"predict {MODEL} 0.png --json x.json --class-names a,a", "needs a name of its own"),
    (f"predict {MODEL} 0.png --json x.json --class-names ,b", "needs a name of its own"),
    (f"predict {MODEL} 0.png --json x.json --annotations text.txt", "text.txt: not a JSON file"),
    (f"predict {MODEL} 0.png --json x.json --annotations no.json", "no.json (--annotations)"),
    (f"predict {MODEL} 0.png --json x.json --jsn x", "unrecognized arguments: --jsn"),
    ("predict --config-file config.yaml --weights no.pth 0.png --json x.json", "there is no file"),
    ("predict --config-file config.yaml --weights empty 0.png --json x.json", "there is no file"),
    ("predict --config-file config.yaml 0.png --json x.json", "the model has no weights"),
    (f"show-detections {MODEL} --output x.png --num-images 0", "0 must be at least 1"),
    (f"show-detections {MODEL} --output x.png --num-images -1", "-1 must be at least 1"),
    (f"show-detections {MODEL} --output x.xyz", "x.xyz does not end as a picture does"),
    (f"show-detections {MODEL} --output x", "x does not end as a picture does"),
    (f"visualize {MODEL}", "name at least one IMAGE"),
    (
        f"visualize {MODEL} clip.mp4 --output-dir x",
        "clip.mp4 is a video: only anchor-heads predict",
    ),
    (f"visualize {MODEL} 0.png --output-dir x --score-threshold -1", "must be from 0 to 1"),
    ("diagnose --config-file config.yaml --json config.yaml --force", "would be overwritten"),
    ("diagnose --config-file text.txt", "text.txt is not a config"),
    ("compare --config-file config.yaml config.yaml --weights model.pth", "as many files as"),
    (f"compare {MODEL} --images 0", "0 must be at least 1"),
    ("analyze --config-file config.yaml --image-size 0 64", "0 must be at least 1"),
    ("analyze --config-file config.yaml --image-size -5 64", "-5 must be at least 1"),
    ("analyze --config-file config.yaml --image-size 64 x", "invalid positive value: 'x'"),
    ("benchmark --config-file config.yaml --device gpu", "--device gpu cannot be used here"),
    ("benchmark --config-file config.yaml --threads 0", "0 must be at least 1"),
    ("benchmark --config-file config.yaml --kept 2", "--kept shares in (0, 1]"),
    (f"export {MODEL} --format foo --output x.onnx", 'no format "foo": choose onnx, torch'),
    (f"export {MODEL} --format onnx --output x.bin", "a file of format onnx ends with .onnx"),
    (
        "visualize --config-file config.yaml 0.png --output x MODEL.WEIGHTS m.pt",
        "m.pt is exported, and only predict --weights runs it",
    ),
    (
        "export --config-file config.yaml --format onnx --output x.onnx MODEL.WEIGHTS m.onnx",
        "m.onnx is exported, and only predict --weights runs it",
    ),
    (f"export {MODEL} --format onnx --output x.onnx --size 0 0", "0 must be at least 1"),
    (
        f"export {MODEL} --format onnx --output x.onnx --precision int8",
        "needs --format onnx and --calib",
    ),
    (
        f"export {MODEL} --format onnx --output x.onnx --precision bfloat16",
        "for --format torchscript",
    ),
    (f"export {MODEL} --format onnx --output x.onnx {INT8} none.png", "There is no file or folder"),
    (f"export {MODEL} --format onnx --output x.onnx {INT8} clip.mp4", "there is no image among"),
    (f"export {MODEL} --format onnx --output x.onnx --calibration-images 0.png", "are for --prec"),
    ("convert-weights no.pth x.pth", "There is no file"),
    ("convert-weights text.txt x.pth", "text.txt is not complete, or is not a PyTorch checkpoint"),
    ("convert-weights model.pth model.pth", "is read and would be overwritten"),
    ("convert-weights model.pth x.pth", "is a Detectron2 checkpoint already"),
    ("convert-weights model.pth x.bin", "must end with .pth"),
    ("convert-weights model.pth no/x.pth", "There is no folder"),
    ("convert-dataset none x", "is no folder"),
    ("convert-dataset empty x", "is in neither Pascal VOC's nor YOLO's format"),
    pytest.param(
        "convert-dataset voc x",
        "voc/Annotations/0.xml cannot be read: ",
        marks=pytest.mark.skipif(find_spec("supervision") is None, reason="needs supervision"),
    ),
    ("train --config-file config.yaml --weights empty", "there is no file"),
    ("train --config-file config.yaml --num-gpus two", "invalid int value: 'two'"),
    ("train --config-file config.yaml --num-machines 2 --dist-url here", "must be the address of"),
    (
        "train --config-file config.yaml --num-machines 2 --dist-url tcp://127.0.0.1:99999",
        "must be the address of",
    ),
    ("eval --config-file config.yaml", "There are no weights to evaluate"),
    ("eval --config-file config.yaml --weights no.pth", "there is no file"),
]


@pytest.mark.parametrize("words, expected", LINES)
def test_one_line_says_what_is_wrong(command, folder, monkeypatch, words, expected):
    monkeypatch.chdir(folder)
    before = set(folder.iterdir())
    code, said, error = command(*words.split(), *["OUTPUT_DIR", "run"] * words.startswith("eval"))
    assert code == 2 and expected in error.splitlines()[-1], error
    assert "Traceback" not in error and "Wrote" not in said
    assert set(folder.iterdir()) - {folder / "run"} <= before
