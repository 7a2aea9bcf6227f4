"""A JSON file that several measurements share."""

import json
from collections.abc import Mapping
from pathlib import Path

from gridclip.files import write_json


def write_sections(path: Path, sections: Mapping[str, dict]) -> None:
    """Write some parts of the file; the others stay."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, {**kept, **sections}, indent=1)
