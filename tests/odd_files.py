"""A folder of odd files: pictures of every kind that people have, and what is none."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# By suffix the modes that PIL writes.
MODES = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "jpg": ("L", "RGB", "CMYK", "YCbCr"),
    "jp2": ("L", "LA", "RGB", "RGBA", "I;16"),
    "gif": ("1", "L", "P", "RGB", "RGBA"),
    "webp": ("L", "RGB", "RGBA"),
    "avif": ("L", "RGB", "RGBA"),
    "tif": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16"),
    "bmp": ("1", "L", "P", "RGB", "RGBA"),
    "dib": ("L", "RGB"),
    "ppm": ("1", "L", "RGB", "I;16"),
    "tga": ("L", "LA", "P", "RGB", "RGBA"),
    "pcx": ("1", "L", "P", "RGB"),
    "ico": ("L", "RGB", "RGBA"),
    "sgi": ("L", "RGB", "RGBA"),
    "dds": ("L", "RGB", "RGBA"),
    "im": ("L", "RGB", "CMYK"),
    "qoi": ("RGB", "RGBA"),
    "xbm": ("1",),
    "msp": ("1",),
}
NAMES = [
    *("with spaces.png", "ünï cödé.png", "图片.png", "사진.png", "a#b.png", "a=b.png", "50%.png"),
    *("-x.png", "q'uote\".png", "[1].png", "{stem}.png", "dots.in.the.name.png", "UPPER.PNG"),
    *("upper.JPG", "n" * 200 + ".png", "star*.png", "what?.png", "semi;colon&.png", "~tilde.png"),
    *("jpeg named.png.jpg", "png named.jpeg", "no suffix", "a text.txt", "a video.mp4", "data.dat"),
]
NO_PICTURES = {
    "notes.txt": b"Two words.",
    "README": b"Nothing but text",
    "page.html": b"<html><img src='a.png'></html>",
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "table.csv": b"a,b\n1,2\n",
    "labels.json": b"{}",
    "Thumbs.db": bytes(range(256)),
    "empty": b"",
    "empty.txt": b"",
    "script.py": b"print()",
    "paper.pdf": b"%PDF-1.4\n",
    "sound.mp3": b"ID3\x03",
}


def picture(mode: str) -> Image.Image:
    rng = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 2**16, (45, 60), dtype=np.uint16))
    image = Image.fromarray(rng.integers(0, 256, (45, 60, 3), dtype=np.uint8))
    if mode == "LAB":
        return Image.merge("LAB", image.split())
    return image.convert(mode)


def encoded(kind: str = "PNG", mode: str = "RGB", **options) -> bytes:
    stream = io.BytesIO()
    picture(mode).save(stream, kind, **options)
    return stream.getvalue()


def write_odd_files(folder: Path) -> dict[str, str]:
    """Returns of each name what it is: "picture", "error" or "other"."""
    folder.mkdir()
    expected: dict[str, str] = {}

    def add(name: str, content: bytes, is_: str = "picture") -> None:
        (folder / name).write_bytes(content)
        expected[name] = is_

    for suffix, modes in MODES.items():
        for mode in modes:
            name = f"{suffix}-{mode.replace(';', '')}.{suffix}"
            picture(mode).save(folder / name)
            expected[name] = "picture"
    for suffix in ("jpg", "png", "webp", "tif"):
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            name = f"turned-{suffix}-{orientation}.{suffix}"
            picture("RGB").save(folder / name, exif=exif)
            expected[name] = "picture"
    for name in NAMES:
        kind = "JPEG" if name.startswith(("jpeg", "upper")) else "PNG"
        add(name, encoded(kind))
    for suffix in ("gif", "webp", "tif", "png", "avif"):
        turned = picture("RGB").rotate(180)
        name = f"moving-{suffix}.{suffix}"
        picture("RGB").save(folder / name, save_all=True, append_images=[turned])
        expected[name] = "picture"
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        add(f"{compression}.tif", encoded("TIFF", compression=compression))
    for quality, subsampling in ((1, 0), (50, 1), (95, 2)):
        add(f"quality-{quality}.jpg", encoded("JPEG", quality=quality, subsampling=subsampling))
    for level in (0, 9):
        add(f"level-{level}.png", encoded(compress_level=level))
    add("see-through.png", encoded(mode="P", transparency=0))
    add("see-through-gif.gif", encoded("GIF", mode="P", transparency=0))
    add("progressive.jpg", encoded("JPEG", progressive=True))
    add("trailing.jpg", encoded("JPEG") + b"what a phone adds")

    for width, height, is_ in ((1, 1, "picture"), (2, 3, "picture"), (5000, 1, "error")):
        Image.new("RGB", (width, height)).save(folder / f"{width}x{height}.png")
        expected[f"{width}x{height}.png"] = is_
    for mode, dtype in (("I", np.int32), ("F", np.float32)):
        Image.fromarray(np.zeros((9, 9), dtype)).save(folder / f"numbers-{mode}.tif")
        expected[f"numbers-{mode}.tif"] = "error"

    for kind, suffix in (("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("BMP", "bmp")):
        whole = encoded(kind)
        for share in (1, 10, 30, 50, 70, 90):
            name = f"cut-{suffix}-{share}.{suffix}"
            add(name, whole[: len(whole) * share // 100], "error")
    for name, content in {
        "empty.png": b"",
        "text.jpg": b"text",
        "page.png": b"<html>",
        "random.gif": np.random.default_rng(0).bytes(500),
        "no header.webp": encoded("WEBP")[16:],
        "damaged.png": encoded().replace(b"IDAT", b"IDAX"),
        "film.mp4": b"no film",
    }.items():
        add(name, content, "error")
    os.symlink(folder / "nowhere", folder / "dangling.png")
    expected["dangling.png"] = "error"

    for name, content in NO_PICTURES.items():
        add(name, content, "other")
    with zipfile.ZipFile(folder / "pictures.zip", "w") as file:
        file.writestr("a.png", encoded())
    os.mkfifo(folder / "pipe.png")
    for name in ("sub", "folder.png"):
        (folder / name).mkdir()
        picture("RGB").save(folder / name / "inside.png")
    expected |= dict.fromkeys(("pictures.zip", "pipe.png", "sub", "folder.png"), "other")

    add("locked.png", encoded())
    (folder / "locked.png").chmod(0)
    if not os.access(folder / "locked.png", os.R_OK):  # root may read all
        expected["locked.png"] = "error"
    (folder / ".hidden.png").write_bytes(encoded())  # is not looked at
    return expected


def upright_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).size
