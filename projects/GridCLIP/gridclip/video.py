"""Videos: files, webcams and streams in, files out."""

import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import supervision as sv
from PIL import Image

from gridclip.files import replacing

VIDEO_SUFFIXES = frozenset(
    ".3gp .avi .flv .m2ts .m4v .mjpeg .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()
)
_CAMERA = re.compile(r"(?:webcam:)?(\d+)")
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://.+")
_WAIT = 0.2  # seconds until it is looked whether to stop


@dataclass(frozen=True, eq=False)
class Frame:
    """One of a video.

    Attributes:
        index: from 0. Of a webcam or a stream, frames that came meanwhile are counted, too.
        time: in seconds from the video's beginning.
        pixels: (H, W, 3) uint8 RGB.
    """

    index: int
    time: float
    pixels: np.ndarray


def is_video(source: str) -> bool:
    """Whether it is a webcam ("webcam:0", or "0" where no such file is), a stream's URL, or named
    like a video file."""
    if Path(source).exists():
        return Path(source).suffix.lower() in VIDEO_SUFFIXES and not Path(source).is_dir()
    has_suffix = Path(source).suffix.lower() in VIDEO_SUFFIXES and not set(source) & set("*?[")
    return has_suffix or bool(_CAMERA.fullmatch(source) or _URL.fullmatch(source))


class Video:
    """Frames of a video file, a webcam or a stream, one after the other.

    Attributes:
        name: for files and messages: without a URL's user and password.
        stem: for the names of outputs.
        fps: frames a second, as the video says; 25 where it does not.
        length: in frames, as the video says; None where it does not.
        is_live: it is a webcam, or a stream without an end.
    """

    def __init__(self, source: str):
        """
        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it can't be opened as a video.
        """
        self.name, self.stem = video_name(source), video_stem(source)
        is_file = Path(source).exists()
        camera = None if is_file else _CAMERA.fullmatch(source)
        if not is_file and not camera and not _URL.fullmatch(source):
            raise FileNotFoundError(f"No video at {source}.")
        self._capture = cv2.VideoCapture(int(camera[1]) if camera else source)
        if not self._capture.isOpened():
            self._capture.release()
            raise ValueError(f"{self.name} can't be opened as a video.")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= 240 else 25.0
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.length = int(count) if count > 0 and not camera else None
        self.is_live = self.length is None and not is_file

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """All frames, until the end or until ``stop`` is set. Of a live one each time the
        newest: those that came since the last are left out.

        Raises:
            ValueError: it holds no frame.
        """
        frames = self._newest(stop) if self.is_live else self._all(stop)
        index = -1
        for index, at, pixels in frames:
            yield Frame(index, at, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
        if index < 0 and not stop.is_set():
            raise ValueError(f"{self.name} holds no frame that can be read.")

    def _all(self, stop: threading.Event) -> Iterator[tuple[int, float, np.ndarray]]:
        index, at = 0, -math.inf
        while not stop.is_set():
            has_frame, pixels = self._capture.read()
            if not has_frame:
                break
            stated = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            # Not all formats have times.
            at = stated if stated > at and (stated > 0 or not index) else index / self.fps
            yield index, at, pixels
            index += 1
        self._capture.release()

    def _newest(self, stop: threading.Event) -> Iterator[tuple[int, float, np.ndarray]]:
        came, over = threading.Condition(), threading.Event()
        newest: list[tuple[int, float, np.ndarray]] = []

        def read() -> None:
            start, index = time.monotonic(), 0
            while not over.is_set():
                has_frame, pixels = self._capture.read()
                with came:
                    if has_frame:
                        newest[:] = [(index, time.monotonic() - start, pixels)]
                    else:
                        over.set()
                    came.notify()
                index += 1
            self._capture.release()  # not by another thread: it may be reading

        # A daemon: reading from a dead stream may block, and must not keep the program alive.
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            while not stop.is_set():
                with came:
                    while not newest and not over.is_set() and not stop.is_set():
                        came.wait(_WAIT)
                    if not newest or stop.is_set():
                        break
                    frame = newest.pop()
                yield frame
        finally:
            over.set()
            thread.join(timeout=1)


@contextmanager
def write_video(path: Path, video: Video) -> Iterator[Callable[[Image.Image, float], None]]:
    """A function that adds a picture and its time in seconds to an MPEG-4 file as fast as
    ``video``; the file is at ``path``, which ends in .mp4, once it is whole.

    Of a live video, pictures are repeated until the file is as long as the time that
    went by, as detection may be slower than the camera. Pictures of another size than the first
    are resized to that; an odd last row or column is cut off, as the codec halves colours.

    Raises:
        ValueError: no picture was added.
        RuntimeError: the file can't be written.
    """
    size, last, written = (0, 0), None, 0

    with replacing(path) as partial, ExitStack() as stack:
        sink: sv.VideoSink

        def write(picture: Image.Image, at: float) -> None:
            nonlocal sink, size, last, written
            if last is None:
                size = picture.width // 2 * 2, picture.height // 2 * 2
                info = sv.VideoInfo(*size, fps=video.fps)
                sink = stack.enter_context(sv.VideoSink(str(partial), info))
            if abs(picture.width - size[0]) > 1 or abs(picture.height - size[1]) > 1:
                picture = picture.resize(size)
            pixels = np.asarray(picture)[: size[1], : size[0]]
            new = np.ascontiguousarray(pixels[..., ::-1])  # OpenCV's colours are BGR
            until = round(at * video.fps) if video.is_live else written
            while last is not None and written < until:
                sink.write_frame(last)
                written += 1
            if written <= until:
                sink.write_frame(new)
                written += 1
            last = new

        yield write
        if not written:
            raise ValueError(f"{video.name}: it was stopped before its first frame.")


def video_name(source: str) -> str:
    """A source for messages: a URL without its user, password and query."""
    if not _URL.fullmatch(source) or Path(source).exists():
        return source
    url = urlsplit(source)
    host = url.netloc.rpartition("@")[2]
    return f"{url.scheme}://{host}{url.path}"


def video_stem(source: str) -> str:
    """A source for names of files: "street" of "street.avi", "webcam0", or a URL's last part."""
    if Path(source).exists():
        return Path(source).stem
    if camera := _CAMERA.fullmatch(source):
        return f"webcam{camera[1]}"
    url = urlsplit(source)
    return Path(url.path).stem or url.hostname or "stream"
