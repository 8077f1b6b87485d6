from anchor_heads.analysis.benchmark.report import describe

RUN = {
    "image_size": [64, 96],
    "batch_size": 8,
    "dtype": "bfloat16",
    "objects": None,
    "kept": 0.125,
    "models": {
        "a": {
            "seconds": {"whole": [0.5, 0.4, 0.6], "head": [0.02]},
            "baseline": "a",
            "ratios": {},
            "peak_memory": {"whole": 99_600_000},
        },
        "b": {
            "seconds": {"whole": [1.0], "head": [0.01], "head: inner": [0.005]},
            "baseline": "a",
            "ratios": {"whole": [1, 2, 4], "head": [0.25, 0.5, 1]},
        },
    },
    "failed": {},
}


def report(*runs, device="cpu"):
    machine = {"device": device, "cpu": "A CPU", "threads": 2, "torch": "2.0"}
    machine |= {"date": "2026-01-02T03:04:05+00:00"}
    return {"command": "anchor-heads benchmark", "repeats": 3, **machine, "runs": list(runs)}


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_row_per_model_and_part():
    text = describe(report(RUN))
    origin, workload, _ = text.split("\n\n")
    assert origin == (
        "`anchor-heads benchmark`: medians of 3 turns, 2 thread(s) of A CPU, torch 2.0, 2026-01-02."
    )
    assert workload == (
        "Inference, 8 image(s) of 64x96, bfloat16, 12.5 % of predicted locations kept:"
    )
    assert rows(text) == [
        ["model", "part", "ms", "/ a (quartiles)", "MB"],
        ["a", "whole", "500.0", "", "100"],
        ["", "head", "20.0", "", ""],
        ["b", "whole", "1000.0", "2.000 (1.000 to 4.000)", ""],
        ["", "head", "10.0", "0.500 (0.250 to 1.000)", ""],
        ["", "head: inner", "5.0", "", ""],
    ]


def test_training_and_several_baselines():
    two = {name: model | {"baseline": name} for name, model in RUN["models"].items()}
    text = describe(report(RUN | {"objects": 10, "kept": None, "models": two}, device="A GPU"))
    assert "A GPU, torch" in text
    assert "\nTraining step, 8 image(s) of 64x96, bfloat16, 10 objects each:\n" in text
    assert rows(text)[0][3] == "/ baseline (quartiles)"


def test_models_that_failed_are_named():
    failed = {"c": "OutOfMemoryError: CUDA out of memory."}
    said = "c failed: OutOfMemoryError: CUDA out of memory."
    assert describe(report(RUN | {"failed": failed})) == f"{describe(report(RUN))}\n\n{said}"
    *_, alone = describe(report(RUN | {"models": {}, "failed": failed})).split("\n\n")
    assert alone == said
