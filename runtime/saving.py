"""A file of answers that appears whole, when all of them are there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ifmmin.runtime.atomic import atomic_file, require_writable
from ifmmin.runtime.errors import OutputError
from ifmmin.runtime.render import Write

LAYOUT_OF = {".csv": "csv", ".jsonl": "json", ".json": "json"}
"""What a file is by its suffix."""
_IN_MEMORY_BYTES = 1 << 24


@contextmanager
def saved_lines(path: Path) -> Iterator[Write]:
    """Give a function that takes lines; after the block they are the content of `path`.

    Lines wait in an unnamed temporary file, so after an error or Ctrl-C a file that stood at
    `path` is untouched. Raises OutputError at once where nothing can be written.
    """
    require_writable(path)
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory; choose a file name")
    with tempfile.SpooledTemporaryFile(
        _IN_MEMORY_BYTES, "w+", encoding="utf-8", newline=""
    ) as kept:

        def write(text: str) -> None:
            try:
                kept.write(text + "\n")
            except OSError as error:
                raise OutputError(f"cannot keep lines for {path}: {error.strerror}") from error

        yield write
        kept.seek(0)
        with (
            atomic_file(path) as part,
            part.open("w", encoding="utf-8", newline="") as file,
        ):
            shutil.copyfileobj(kept, file)
