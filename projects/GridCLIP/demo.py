#!/usr/bin/env python
"""Detect the categories of any vocabulary in pictures, videos, a webcam or a stream.

    python projects/GridCLIP/demo.py --detector FILE.safetensors \\
        --vocabulary "red shoe, traffic cone" --input street.jpg pictures/ --output detections
    python projects/GridCLIP/demo.py --config-file CONFIG.py --weights FILE.pth \\
        --input street.mp4 --track --output detections

writes detections/<name>.jpg, the picture with the boxes found, and detections/<name>.json: names,
scores, and boxes as [x0, y0, x1, y1] in pixels. Of a video it writes detections/<name>.mp4, and a
row a detection with frame and time. The default vocabulary is that of the training. Ctrl-C ends
after the current picture or frame and keeps what there is; a second one ends at once.
"""

import argparse
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import numpy as np
from tqdm import tqdm

from gridclip.arguments import add_detector_options, check_detector_options, load_detector
from gridclip.drawing import draw_prediction
from gridclip.files import replacing
from gridclip.inputs import Inputs, check_outputs, find_inputs, plan_outputs
from gridclip.label_files import FORMATS, VIDEO_FORMATS, write_video_labels
from gridclip.prediction import shorten
from gridclip.predictor import Predictor
from gridclip.text.names import DATASETS, parse_vocabulary
from gridclip.tracking import Tracker
from gridclip.video import Frame, Video, write_video


@contextmanager
def interruptible() -> Iterator[Event]:
    """An event that Ctrl-C sets; a second Ctrl-C interrupts as always."""
    stop = Event()

    def ask(number: int, frame: object) -> None:
        stop.set()
        signal.signal(number, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def detect_pictures(
    predictor: Predictor, pictures: Sequence[Path], args: argparse.Namespace, stop: Event
) -> int:
    """Write drawings and labels; returns how many pictures failed."""
    failures = 0
    bar = tqdm(pictures, "Pictures", unit="picture", disable=len(pictures) == 1)

    def fail(picture: Path, error: Exception) -> None:
        nonlocal failures
        failures += 1
        named = str(picture) in str(error)
        tqdm.write(f"error: {error}" if named else f"error: {picture}: {error}", file=sys.stderr)

    def until_stopped() -> Iterator[Path]:
        for picture in bar:
            if stop.is_set():
                return
            yield picture

    with bar, FORMATS[args.format].open(args.output, predictor.names) as write_labels:
        for found in predictor.stream(until_stopped(), on_error=fail, **limits(args)):
            picture = Path(found.source)
            try:
                drawing = draw_prediction(picture, found)
            except (FileNotFoundError, ValueError) as error:  # it has just gone
                fail(picture, error)
                continue
            with replacing(args.output / f"{picture.stem}.jpg") as partial:
                drawing.save(partial, quality=90)
            write_labels(picture, found)
            best = shorten(map("{0[name]} {0[score]:.2f}".format, found.to_dicts()))
            tqdm.write(f"{picture}: {len(found)} detections{f' ({best})' if best else ''}")
    return failures


def detect_video(predictor: Predictor, source: str, args: argparse.Namespace, stop: Event) -> bool:
    """Write the drawn video and its labels.

    Returns:
        Whether it is whole: not if Ctrl-C ended a video that has an end of its own.

    Raises:
        FileNotFoundError, ValueError: there is no such video, or it can't be read.
    """
    video = Video(source)
    tracker = Tracker(args.score_threshold) if args.track else None
    chosen = limits(args)
    if tracker is not None:  # a track goes on with weaker detections, which are not shown
        chosen["threshold"] = args.score_threshold / 2
    frames: deque[Frame] = deque()
    bar = tqdm(desc=video.name, total=video.length, unit="frame")
    count = 0

    def pixels() -> Iterator[np.ndarray]:
        for frame in video.frames(stop):
            frames.append(frame)
            yield frame.pixels

    def rows() -> Iterator[dict]:
        nonlocal count
        batch_size = 1 if video.is_live else None  # a webcam's frames are drawn at once
        for found in predictor.stream(pixels(), batch_size=batch_size, **chosen):
            frame = frames.popleft()
            if tracker is not None:
                found = tracker.update(found).above(args.score_threshold)
            write_frame(draw_prediction(frame.pixels, found), frame.time)
            bar.update()
            count += len(found)
            for row in found.to_dicts():
                yield {"frame": frame.index, "time": round(frame.time, 3), **row}

    with bar, write_video(args.output / f"{video.stem}.mp4", video) as write_frame:
        write_video_labels(args.output / f"{video.stem}.{args.format}", rows())
    print(f"{video.name}: {count} detections in {bar.n} frames")
    return video.is_live or not stop.is_set()


def detect_all(predictor: Predictor, inputs: Inputs, args: argparse.Namespace) -> tuple[int, bool]:
    """Returns how many inputs failed, and whether nothing was left out because of Ctrl-C."""
    failures, whole = 0, True
    with interruptible() as stop:
        if inputs.pictures:
            failures = detect_pictures(predictor, inputs.pictures, args, stop)
            whole = not stop.is_set()
        for source in inputs.videos:
            if stop.is_set():
                return failures, False
            try:
                whole = detect_video(predictor, source, args, stop)
            except (FileNotFoundError, ValueError) as error:
                failures += 1
                print(f"error: {error}", file=sys.stderr)
    return failures, whole


def limits(args: argparse.Namespace) -> dict:
    return {
        "threshold": args.score_threshold,
        "nms": args.nms,
        "max_detections": args.max_detections,
    }


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_detector_options(parser)
    add = parser.add_argument
    add(
        "--vocabulary",
        metavar="NAMES",
        help="names between commas; a text file with one name a line; a .safetensors file of text "
        f"embeddings; or one of {', '.join(DATASETS)} (default: the vocabulary of the training)",
    )
    add(
        "--input",
        required=True,
        nargs="+",
        metavar="IN",
        help="pictures, videos, folders, globs, webcam:0, rtsp://... or http://...",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="a folder, which is made")
    add(
        "--format",
        choices=FORMATS,
        default="json",
        help="of the labels; of a video json or csv (default: %(default)s)",
    )
    add("--track", action="store_true", help="number the objects of a video")
    add(
        "--score-threshold",
        type=float,
        default=0.3,
        metavar="S",
        help="the least score that is drawn and written (default: %(default)s)",
    )
    add("--nms", type=float, metavar="IOU", help="overlap above which the better box is kept")
    add("--max-detections", type=int, metavar="N", help="of a picture or frame, the best")
    add("--device", help="default: the config's, or cpu where there is no CUDA")
    args = parser.parse_args(argv)
    check_detector_options(parser, args)
    return args


def load(args: argparse.Namespace) -> Predictor:
    vocabulary = None if args.vocabulary is None else parse_vocabulary(args.vocabulary)
    predictor = load_detector(args, vocabulary, device=args.device)
    if isinstance(vocabulary, str):
        print(f"{vocabulary}: {len(predictor.names)} names: {shorten(predictor.names)}")
    return predictor


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        inputs = find_inputs(args.input)
        if inputs.videos and args.format not in VIDEO_FORMATS:
            raise ValueError(f"The labels of a video are json or csv, not {args.format}.")
        if args.track and not inputs.videos:
            raise ValueError("--track numbers the objects of a video, and there is none.")
        given = [args.detector, args.config_file, args.weights, args.vocabulary, *inputs.videos]
        kept = [*inputs.pictures, *map(Path, filter(None, given))]
        check_outputs(plan_outputs(inputs, args.output, args.format), kept)
        if args.track:
            Tracker(args.score_threshold)  # it is installed
        args.output.mkdir(parents=True, exist_ok=True)
        predictor = load(args)
        predictor.stream([], **limits(args))  # they are in their ranges
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")
    if inputs.others:
        names = shorten((f"{x}/" if x.is_dir() else str(x) for x in inputs.others), 20)
        print(f"{len(inputs.others)} left out, as they are no pictures: {names}", file=sys.stderr)
    try:
        failures, whole = detect_all(predictor, inputs, args)
    except OSError as error:  # such as a full disk
        sys.exit(f"error: {error}")
    if failures:
        total = len(inputs.pictures) + len(inputs.videos)
        sys.exit(f"error: {failures} of {total} inputs failed; see above")
    if not whole:
        sys.exit(130)


if __name__ == "__main__":
    main()
