"""Train or evaluate the model of a config, on one process or many.

python train_net.py --config-file configs/free_anchor/free_anchor_R_50_FPN_1x.yaml --num-gpus 8
python train_net.py --config-file ... --resume
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS model.pth
python train_net.py --config-file ... --num-gpus 2 MODEL.DEVICE cpu
torchrun --nproc-per-node 8 train_net.py --config-file ...

Further arguments are config keys and their values.
"""

from detectron2.engine import default_argument_parser

from anchor_heads.engine import Trainer, launch, setup


def main(args):
    cfg = setup(args)
    if args.eval_only:
        return Trainer.evaluate(cfg, resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    launch(main, default_argument_parser(epilog=__doc__).parse_args())
