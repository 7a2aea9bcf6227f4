"""The options by which a command takes a detector, the same for all commands."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gridclip.predictor import Predictor
    from gridclip.queries import Queries


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """A detector is one file, or a config and weights."""
    add = parser.add_argument
    add("--detector", metavar="FILE", help="a detector in one file, as Predictor.save writes it")
    add("--config-file", metavar="CONFIG.py", help="or that of the training, with --weights")
    add("--weights", metavar="FILE", help="the trained detector's")
    add("--opts", nargs="+", default=[], metavar="key=value", help="overrides of --config-file")


def check_detector_options(
    parser: argparse.ArgumentParser, args: argparse.Namespace, *, required: bool = True
) -> None:
    """End the program with a message if they do not say which detector; without ``required`` they
    may say nothing."""
    given = [option is not None for option in (args.config_file, args.weights)]
    if any(given) != all(given) or (any(given) if args.detector else required and not any(given)):
        parser.error(
            "give --config-file and --weights, or --detector, but not both: --config-file and "
            "--weights go together"
        )
    if args.detector and args.opts:
        parser.error("--opts: a detector in one file has its settings in it")


def load_detector(
    args: argparse.Namespace,
    vocabulary: "Queries | None",
    *,
    device: str | None,
    overrides: Sequence[str] = (),
) -> "Predictor":
    """The detector of the options.

    Args:
        vocabulary: None is the detector's own.
        overrides: of the config, before those of the options.

    Raises: as ``Predictor`` and ``Predictor.load``.
    """
    from gridclip.predictor import Predictor  # seconds that a wrong option need not wait for

    if not args.detector:
        given, overrides = (args.config_file, args.weights), [*overrides, *args.opts]
        return Predictor(*given, vocabulary=vocabulary, overrides=overrides, device=device)
    predictor = Predictor.load(args.detector, device=device)
    if vocabulary is not None:
        predictor.set_vocabulary(vocabulary)
    return predictor
