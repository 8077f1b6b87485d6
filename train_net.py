"""Train or evaluate the model of a config, on one process or many.

python train_net.py --config-file configs/free_anchor/free_anchor_R_50_FPN_1x.yaml --num-gpus 8
python train_net.py --config-file ... --resume
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS model.pth
python train_net.py --config-file ... --num-gpus 2 MODEL.DEVICE cpu
torchrun --nproc-per-node 8 train_net.py --config-file ...

Further arguments are config keys and their values.
"""

import sys

from anchor_heads.cli.errors import run_command, silence_warnings

silence_warnings()  # before the imports that give them

from anchor_heads.engine import argument_parser, launch, train_or_evaluate  # noqa: E402

if __name__ == "__main__":
    args = argument_parser(epilog=__doc__).parse_args()
    sys.exit(run_command("train_net.py", launch, train_or_evaluate, args))
