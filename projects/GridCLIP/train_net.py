#!/usr/bin/env python
"""Train or evaluate GridCLIP.

    python projects/GridCLIP/train_net.py --config-file CONFIG.py --num-gpus 8
    python projects/GridCLIP/train_net.py --config-file CONFIG.py --eval-only MODEL.WEIGHTS FILE.pth
    torchrun --nproc-per-node 8 projects/GridCLIP/train_net.py --config-file CONFIG.py

Settings are overridden as key=value, e.g. train.output_dir=output/run1 train.device=cpu.
"""

import argparse
import dis
import logging
import os
import re
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

import gridclip
from gridclip.distributed import LONGEST_WAIT, leave_process_group
from gridclip.engine import do_eval_only, do_train
from gridclip.settings import load_config


def translate_overrides(opts: list[str]) -> list[str]:
    """Turn detectron2's older ``MODEL.WEIGHTS PATH`` into ``train.init_checkpoint=PATH``."""
    translated, rest = [], list(opts)
    while rest:
        key, has_value, value = rest.pop(0).partition("=")
        if key == "MODEL.WEIGHTS":
            if not has_value:
                if not rest:
                    raise SystemExit("MODEL.WEIGHTS needs a path after it.")
                value = rest.pop(0)
            key, value = "train.init_checkpoint", _quote(value)
        elif not has_value:
            raise SystemExit(f"'{key}' is not an override: write key=value.")
        translated.append(f"{key}={value}")
    return translated


def _quote(value: str) -> str:
    # hydra takes backslashes as they are, except before a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + m[2].replace("'", "\\'"), value)
    return f"'{escaped}'"


def is_refusal(error: BaseException | None) -> bool:
    """Whether the product has raised an error itself, so that its message is enough. What a library
    or a slip in the code raises needs its traceback."""
    last = getattr(error, "__traceback__", None)
    if not isinstance(error, OSError | ValueError | RuntimeError | ArithmeticError) or last is None:
        return False
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code
    is_raise = dis.opname[code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
    return is_raise and Path(code.co_filename).is_relative_to(Path(gridclip.__file__).parent)


def shorten(record: logging.LogRecord) -> bool:
    """Have detectron2 log what a training raises without the traceback of a refusal."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, FloatingPointError) or is_refusal(error):
        record.msg, record.exc_info = f"{record.msg} {error}", None
    return True


def main(args: argparse.Namespace) -> None:
    logging.getLogger("detectron2.engine.train_loop").addFilter(shorten)
    try:
        cfg = load_config(args.config_file, translate_overrides(args.opts))
        default_setup(cfg, args)
        if args.eval_only:
            do_eval_only(cfg)
        else:
            do_train(cfg, resume=args.resume, dry_run=args.dry_run)
    except Exception as error:
        if not is_refusal(error):
            raise
        sys.exit(f"error: {error}")


def main_under_torchrun(args: argparse.Namespace) -> None:
    """Join the process group that torchrun describes in the environment."""
    on_gpu = torch.cuda.is_available()
    # torch's own limit for NCCL is ten minutes.
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=LONGEST_WAIT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    if on_gpu:
        torch.cuda.set_device(comm.get_local_rank())
    try:
        main(args)
    finally:
        leave_process_group()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, train two iterations, run one test image and stop",
    )
    args = parser.parse_args(argv)
    if not args.config_file:
        parser.error("--config-file is needed: one of projects/GridCLIP/configs/**/*.py")
    return args


if __name__ == "__main__":
    arguments = parse_args()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        main_under_torchrun(arguments)
    else:
        try:
            launch(
                main,
                arguments.num_gpus,
                num_machines=arguments.num_machines,
                machine_rank=arguments.machine_rank,
                dist_url=arguments.dist_url,
                args=(arguments,),
                timeout=LONGEST_WAIT,
            )
        except ProcessExitedException as error:  # a process that was not killed has said why
            sys.exit(str(error) if error.signal_name else error.exit_code)
