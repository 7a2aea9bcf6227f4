#!/usr/bin/env python
"""Weights between a detector before and after fine-tuning: (1 - alpha) before + alpha after.

    python scripts/interpolate_weights.py before/model_final.pth after/model_final.pth \\
        --alpha 0.75 --output mixed.pth

Both must be of one model. Use the result with the config of the fine-tuning: docs/fine-tuning.md.
"""

import argparse
import sys
from pathlib import Path

from gridclip.engine.interpolation import interpolate_weights


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, metavar="BEFORE", help="weights before fine-tuning")
    parser.add_argument("after", type=Path, metavar="AFTER", help="and after it")
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="0: before, 1: after; default: 0.5"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE.pth", help="of the mixture"
    )
    args = parser.parse_args(argv)
    try:
        interpolate_weights(args.before, args.after, args.alpha, args.output)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(args.output)


if __name__ == "__main__":
    main()
