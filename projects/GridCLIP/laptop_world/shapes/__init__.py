"""ShapesLVIS: a small drawn detection world in LVIS v1's format, and captions for CLIP."""

from .captions import CaptionedShapes
from .dataset import (
    GeneratedShapes,
    generate_shapes,
    how_to_generate,
    novel_axes,
    novel_names,
)
from .drawing import render
from .scenes import build_caption_scene, build_scene
from .vocabulary import ALL_NAMES, AXES, load_world

__all__ = [
    "ALL_NAMES",
    "AXES",
    "CaptionedShapes",
    "GeneratedShapes",
    "build_caption_scene",
    "build_scene",
    "generate_shapes",
    "load_world",
    "how_to_generate",
    "novel_axes",
    "novel_names",
    "render",
]
