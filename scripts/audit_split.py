#!/usr/bin/env python
"""Prove that a training's novel categories reach none of its losses, or name what does.

    python scripts/audit_split.py --config-file CONFIG.py data.novel='[zebra]' --steps 20

Runs some training steps from random weights, also on a CPU and without CLIP. On a CPU a smaller
batch is faster: dataloader.train.total_batch_size=2. Exits with 0 if it is clean, with 1 if there
is a leak, or nothing to audit.
"""

import argparse
import sys
from pathlib import Path

from gridclip.engine.audit import audit_split
from gridclip.files import write_json
from gridclip.settings import load_config


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="CONFIG.py", help="that of the training")
    add("opts", nargs="*", metavar="key=value", help="overrides of the config")
    add("--steps", type=int, default=20, help="training steps (default: 20)")
    add("--output", type=Path, metavar="FILE", help="also write the result there, as JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 if no leak was found."""
    args = parse_args(argv)
    try:
        audit = audit_split(load_config(args.config_file, args.opts), args.steps)
        if args.output is not None:
            write_json(args.output, audit.as_json(), indent=2)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(audit)
    return 0 if audit.clean else 1


if __name__ == "__main__":
    sys.exit(main())
