import pytest
from tiny_run import finish, start


@pytest.mark.parametrize("method", ["FreeAnchor", "GuidedAnchor", "DynamicAnchor"])
def test_benchmark_of_the_losses_prints_a_row_per_number_of_objects(method):
    options = "--image-size 64 64 --objects 2 3 --repeats 2 --warmup 1 --method".split() + [method]
    code, said = finish(start("tools/benchmark_losses.py", *options))
    assert code == 0, said
    rows = [line.split("|") for line in said.splitlines() if line.startswith("|")]
    assert [row[1].strip() for row in rows] == ["objects", "---", "2", "3"]
    for row in rows[2:]:
        ours, theirs, ratio, *memory = (float(cell.split()[0]) for cell in row[2:7])
        assert ours > 0 and theirs > 0 and ratio > 0 and min(memory) >= 0
