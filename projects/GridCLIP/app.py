#!/usr/bin/env python
"""A page to try a detector on, in the browser.

    python projects/GridCLIP/app.py
    python projects/GridCLIP/app.py --detector mine.safetensors
    python projects/GridCLIP/app.py --config-file CONFIG.py --weights FILE.pth

Without a detector it takes that of `make demo`, which is made first where it is missing.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gridclip.arguments import add_detector_options, check_detector_options, load_detector

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "projects/GridCLIP"
DEMO = Path("output/demo")  # where `make demo` has it, below ROOT
SAMPLES = 8


def make_demo() -> None:
    """Have the demo train its detector. Its progress is printed.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "laptop_world.demo", "--output", str(DEMO)]
    paths = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # Its paths begin at ROOT, as with `make demo`; otherwise it would begin anew.
    if subprocess.run(command, cwd=ROOT, env=environment).returncode:
        raise RuntimeError("The demo failed, see above; or give a detector by --detector.")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_detector_options(parser)
    add = parser.add_argument
    add("--vocabulary", metavar="NAMES", help="looked for without words, as in demo.py")
    add("--device", help="default: the config's, or cpu where there is no CUDA")
    add("--host", default="127.0.0.1", help="0.0.0.0 is every network (%(default)s)")
    add("--port", type=int, default=7860, help="(%(default)s)")
    args = parser.parse_args(argv)
    check_detector_options(parser, args, required=False)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uploads are removed then, too
    with tempfile.TemporaryDirectory(prefix="gridclip-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            serve_forever(args)
        except (OSError, ValueError, RuntimeError) as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:  # while the demo is made, or the detector loaded
            sys.exit("stopped; the same command goes on")


def serve_forever(args: argparse.Namespace) -> None:
    samples: list[Path] = []
    if not args.detector and not args.config_file:
        args.detector = ROOT / DEMO / "detector.safetensors"
        if not args.detector.is_file():
            print(f"There is no {args.detector} yet: making it takes some minutes.", flush=True)
            make_demo()
        samples = sorted((ROOT / DEMO).glob("datasets/shapes/shapes_test_val/*.png"))[:SAMPLES]

    # Here, as they take seconds that a wrong option need not wait for.
    from gridclip.text.names import parse_vocabulary
    from page.layout import Page, serve

    vocabulary = parse_vocabulary(args.vocabulary) if args.vocabulary else None
    predictor = load_detector(args, vocabulary, device=args.device)
    page = Page(predictor, samples)
    print(f"Open {serve(page, args.host, args.port)} in a browser; Ctrl-C ends it.", flush=True)
    page.blocks.block_thread()


if __name__ == "__main__":
    main()
