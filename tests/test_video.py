"""gridclip/video.py: every frame of files, the newest of cameras, and files that are whole."""

import http.server
import threading
from contextlib import contextmanager
from functools import partial

import cv2
import numpy as np
import pytest
from PIL import Image

from gridclip import video as module
from gridclip.video import Video, is_video, video_name, video_stem, write_video

SIZE = (96, 64)


def frame(index):
    """RGB, its red as bright as its number says."""
    return np.full((SIZE[1], SIZE[0], 3), (20 * index, 90, 30), np.uint8)


def number(pixels):
    return round(float(pixels[..., 0].mean()) / 20)


def write(path, count=8, fps=10, codec="mp4v"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, SIZE)
    for index in range(count):
        writer.write(np.ascontiguousarray(frame(index)[..., ::-1]))
    writer.release()
    return path


@contextmanager
def served(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mp4v"), ("b.AVI", "MJPG")])
def test_every_frame_of_a_file_in_order(tmp_path, name, codec):
    video = Video(str(write(tmp_path / name, codec=codec)))
    assert (video.stem, video.fps, video.length) == (name[0], 10, 8) and not video.is_live
    frames = list(video.frames(threading.Event()))
    assert [f.index for f in frames] == list(range(8))
    assert [f.time for f in frames] == pytest.approx([i / 10 for i in range(8)])
    assert [number(f.pixels) for f in frames] == list(range(8))
    assert frames[0].pixels.shape == (64, 96, 3) and frames[0].pixels.dtype == np.uint8
    # Red, green and blue, not the other way round.
    assert np.abs(frames[7].pixels.mean((0, 1)) - (140, 90, 30)).max() < 12


def test_a_file_that_does_not_say_how_long_it_is(tmp_path):
    jpegs = [cv2.imencode(".jpg", frame(i)[..., ::-1].copy())[1].tobytes() for i in range(8)]
    (tmp_path / "raw.mjpeg").write_bytes(b"".join(jpegs))
    video = Video(str(tmp_path / "raw.mjpeg"))
    assert video.length is None and not video.is_live
    frames = list(video.frames(threading.Event()))
    assert [number(f.pixels) for f in frames] == list(range(8))
    times = [f.time for f in frames]
    assert times == sorted(set(times)) and times[0] == 0


def test_stop_ends_after_the_frame(tmp_path):
    stop, seen = threading.Event(), []
    for found in Video(str(write(tmp_path / "a.mp4"))).frames(stop):
        seen.append(found.index)
        if found.index == 2:
            stop.set()
    assert seen == [0, 1, 2]


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    for name in ("text.mp4", "empty.mp4"):
        with pytest.raises(ValueError, match=f"{tmp_path / name} can't be opened as a video"):
            Video(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match="No video at gone.mp4"):
        Video("gone.mp4")


def test_a_video_without_frames_is_named(tmp_path, monkeypatch):
    camera(monkeypatch, [])
    with pytest.raises(ValueError, match="webcam:0 holds no frame"):
        list(Video("webcam:0").frames(threading.Event()))


def camera(monkeypatch, frames, fps=30.0, count=-1.0):
    """A webcam that shows the frames, each until ``shown`` is released, and is then pulled out."""
    shown = threading.Semaphore(0)
    opened = []

    class Camera:
        def __init__(self, source):
            opened.append(source)
            self.frames, self.is_open = iter(frames), True

        def isOpened(self):  # noqa: N802
            return True

        def get(self, what):
            return {cv2.CAP_PROP_FPS: fps, cv2.CAP_PROP_FRAME_COUNT: count}.get(what, 0.0)

        def read(self):
            assert self.is_open
            found = next(self.frames, None)
            if found is not None:
                shown.acquire()
            return found is not None, None if found is None else found[..., ::-1]

        def release(self):
            self.is_open = False

    monkeypatch.setattr(module.cv2, "VideoCapture", Camera)
    return shown, opened


@pytest.mark.parametrize("source", ["webcam:3", "3"])
def test_of_a_webcam_the_newest_frame_is_taken(monkeypatch, source):
    shown, opened = camera(monkeypatch, [frame(i) for i in range(6)])
    video = Video(source)
    assert (opened, video.length, video.is_live) == ([3], None, True)
    assert video.stem == "webcam3"
    frames = video.frames(threading.Event())
    shown.release()
    first = next(frames)
    shown.release(5)
    rest = list(frames)  # as many as the reading thread left time for, and the last in any case
    numbers = [number(f.pixels) for f in (first, *rest)]
    assert numbers[0] == 0 and numbers[-1] == 5 and numbers == sorted(set(numbers))
    assert [f.index for f in (first, *rest)] == numbers
    times = [f.time for f in (first, *rest)]
    assert times == sorted(times) and times[0] >= 0


def test_stop_does_not_wait_for_a_dead_camera(monkeypatch):
    shown, _ = camera(monkeypatch, [frame(i) for i in range(3)])
    stop = threading.Event()
    frames = Video("webcam:0").frames(stop)
    shown.release()
    assert next(frames).index == 0
    threading.Timer(0.1, stop.set).start()
    assert list(frames) == []  # no other frame ever comes
    shown.release(3)  # lets the reading thread end


@pytest.mark.parametrize("fps", [0.0, -1.0, 90000.0, float("nan")])
def test_a_rate_that_is_none_is_25(monkeypatch, fps):
    camera(monkeypatch, [], fps=fps)
    assert Video("webcam:0").fps == 25


def test_a_file_behind_an_url_is_read_whole(tmp_path):
    write(tmp_path / "street.mp4")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with served(handler) as address:
        video = Video(f"{address}/street.mp4?key=secret")
        assert (video.length, video.stem) == (8, "street")
        assert video.name == f"{address}/street.mp4"
        found = list(video.frames(threading.Event()))
    assert [number(f.pixels) for f in found] == list(range(8))


class MJPEG(http.server.BaseHTTPRequestHandler):
    """What network cameras send."""

    def do_GET(self):  # noqa: N802
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for index in range(8):
            _, jpeg = cv2.imencode(".jpg", np.ascontiguousarray(frame(index)[..., ::-1]))
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg.tobytes() + b"\r\n")

    def log_message(self, *args):
        pass


def test_a_stream_without_an_end(tmp_path):
    with served(MJPEG) as address:
        video = Video(f"{address}/cam.mjpg")
        assert (video.is_live, video.stem) == (True, "cam")
        numbers = [number(f.pixels) for f in video.frames(threading.Event())]
    assert numbers == sorted(set(numbers)) and numbers[-1] == 7


def test_a_stream_that_is_not_there_is_named_without_its_password():
    with pytest.raises(ValueError) as caught:
        Video("http://user:secret@127.0.0.1:9/cam?token=secret")
    assert str(caught.value) == "http://127.0.0.1:9/cam can't be opened as a video."


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("webcam:0", True),
        ("1", True),
        ("rtsp://camera/1", True),
        ("http://host/a.mp4", True),
        ("gone.MP4", True),
        ("street.jpg", False),
        ("webcam", False),
        ("*.mp4", False),
        ("pictures", False),
    ],
)
def test_is_video(source, expected):
    assert is_video(source) == expected


def test_files_go_before_cameras(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()
    (tmp_path / "holidays.mp4").mkdir()
    (tmp_path / "1").touch()
    assert not is_video("0") and not is_video("1") and not is_video("holidays.mp4")


def test_names_of_urls():
    assert video_name("rtsp://me:pw@camera:554/a/live?x=1") == "rtsp://camera:554/a/live"
    assert video_stem("rtsp://me:pw@camera:554/a/live?x=1") == "live"
    assert video_stem("rtsp://me:pw@camera:554") == "camera"


def read(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while (found := capture.read())[0]:
        frames.append(found[1][..., ::-1])
    return frames


def test_pictures_of_any_size_become_one_video(tmp_path):
    source = Video(str(write(tmp_path / "in.mp4")))
    path = tmp_path / "new" / "out.mp4"
    with write_video(path, source) as add:
        add(Image.new("RGB", (101, 75), (200, 30, 30)), 0.0)
        add(Image.new("RGB", (101, 75), (30, 200, 30)), 0.1)
        add(Image.new("RGB", (50, 40), (30, 30, 200)), 0.2)
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["out.mp4"]
    frames = read(path)
    assert [f.shape for f in frames] == [(74, 100, 3)] * 3
    assert [int(f.mean((0, 1)).argmax()) for f in frames] == [0, 1, 2]
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == 10


def test_a_slow_detector_does_not_speed_up_a_camera(tmp_path, monkeypatch):
    capture = cv2.VideoCapture
    camera(monkeypatch, [], fps=10)
    source = Video("webcam:0")
    with write_video(tmp_path / "out.mp4", source) as add:
        for index, at in enumerate((0.0, 0.5, 0.52, 1.0)):
            add(Image.fromarray(frame(3 * index)), at)
    monkeypatch.setattr(module.cv2, "VideoCapture", capture)
    assert [number(f) // 3 for f in read(tmp_path / "out.mp4")] == [0] * 5 + [1] + [2] * 4 + [3]


def test_an_error_leaves_the_old_video(tmp_path):
    path = write(tmp_path / "out.mp4")
    before = path.read_bytes()
    source = Video(str(path))
    with pytest.raises(RuntimeError, match="why"), write_video(path, source) as add:
        add(Image.fromarray(frame(0)), 0.0)
        raise RuntimeError("why")
    with pytest.raises(ValueError, match="stopped before its first"), write_video(path, source):
        pass
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
