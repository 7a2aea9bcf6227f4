"""What a command line names, and where what is made of it goes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gridclip.label_files import FORMATS
from gridclip.pictures import find_files
from gridclip.video import is_video, video_name, video_stem


class Inputs(NamedTuple):
    """What there is to look at.

    Attributes:
        pictures: files, each once.
        videos: files, webcams and URLs, each once.
        others: what folders and patterns hold beside them: other files, and folders.
    """

    pictures: list[Path]
    videos: list[str]
    others: list[Path]


def find_inputs(inputs: Sequence[str]) -> Inputs:
    """Pictures and videos that paths, folders, glob patterns, webcams and URLs name.

    Raises:
        ValueError: a folder or a pattern holds neither.
    """
    pictures: list[Path] = []
    videos: list[str] = []
    others: list[Path] = []
    for given in inputs:
        if is_video(given):
            videos.append(given)
            continue
        found = find_files([given])
        moving = [path for path in found.others if is_video(str(path))]
        if not found.pictures and not moving:
            raise ValueError(f"There are no pictures in {given}.")
        pictures += found.pictures
        videos += map(str, moving)
        others += [path for path in found.others if path not in moving]
    return Inputs(*(list(dict.fromkeys(part)) for part in (pictures, videos, others)))  # type: ignore


def plan_outputs(inputs: Inputs, folder: Path, label_format: str) -> dict[str, list[Path]]:
    """By input the files that are written for it, and those for all pictures together.

    Args:
        label_format: of ``FORMATS``.
    """
    files = FORMATS[label_format].files
    shared = [file for file in files if "{stem}" not in file]
    plan = {"The labels of all pictures": [folder / x for x in shared] if inputs.pictures else []}
    for picture in inputs.pictures:
        own = [file.format(stem=picture.stem) for file in files if file not in shared]
        plan[str(picture)] = [folder / name for name in (f"{picture.stem}.jpg", *own)]
    for video in inputs.videos:
        stem = video_stem(video)
        plan[video_name(video)] = [folder / f"{stem}.mp4", folder / f"{stem}.{label_format}"]
    return plan


def check_outputs(outputs: Mapping[str, Sequence[Path]], inputs: Sequence[Path]) -> None:
    """Raises ValueError if two inputs would write one file, or an output would replace an input.

    Args:
        outputs: by input, as of :func:`plan_outputs`.
        inputs: files that must stay.
    """
    writers: dict[Path, str] = {}
    kept = {path.resolve() for path in inputs}
    for given, paths in outputs.items():
        for path in paths:
            other = writers.setdefault(path.resolve(), given)
            if other != given:
                raise ValueError(f"{other} and {given} would both write {path}: run them apart.")
            if path.resolve() in kept:
                raise ValueError(f"The output would replace {path}: choose another --output.")
