#!/bin/bash
# What only a GPU can show: the tests that need one, then time and peak memory of the models.
#
#     tests/device/on_gpu.sh OUTPUT [options of anchor-heads benchmark, which replace those below]
#
# OUTPUT gets tests.txt, benchmark.json and, as tables, benchmark.md. To try it without a GPU:
#
#     tests/device/on_gpu.sh output/try --device cpu --image-size 64 96 --repeats 1 \
#         --task training --train-batch-size 2 --objects 10 \
#         --config-file quick_start/retinanet quick_start/ga_retinanet
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
output=${1:?"usage: $0 OUTPUT [options of anchor-heads benchmark]"}
shift
mkdir -p "$output"
python=${PYTHON:-.venv/bin/python}
failed=0

$python -m pytest -q -m gpu tests/device | tee "$output/tests.txt" || failed=1
$python -m anchor_heads benchmark --device cuda --task inference training \
    --batch-size 1 8 --train-batch-size 2 16 --dtype float32 bfloat16 --kept 0.02 0.1 0.5 \
    --objects 10 100 --repeats 3 --output "$output/benchmark.json" --force \
    --config-file baselines/retinanet_R_50_FPN_1x guided_anchoring/ga_retinanet_R_50_FPN_1x \
    free_anchor/free_anchor_R_50_FPN_1x dynamic_anchor/da_retinanet_R_50_FPN_1x \
    baselines/rpn_R_50_FPN_1x guided_anchoring/ga_rpn_R_50_FPN_1x dynamic_anchor/da_rpn_R_50_FPN_1x \
    "$@" | tee "$output/benchmark.md" || failed=1
exit $failed
