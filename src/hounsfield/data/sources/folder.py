"""Files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hounsfield.data.sources import Item
from hounsfield.dicom.parsing import announce
from hounsfield.errors import DataError


class Folder:
    """Every file below `root`, links to files among them; links to folders are not followed."""

    remote = False

    def __init__(self, root: Path) -> None:
        self.root = root

    def items(self) -> Iterator[Item]:
        if not self.root.is_dir():
            raise DataError(f"data folder {self.root} does not exist or is not a folder")
        for folder, folders, files in os.walk(self.root):
            folders.sort()
            for name in sorted(files):
                path = Path(folder, name)
                try:
                    status = path.stat()
                except OSError:  # a link that leads nowhere: reading it will say so
                    yield Item(str(path.relative_to(self.root)), "")
                    continue
                if path.is_file():
                    version = f"{status.st_size} {status.st_mtime_ns}"
                    yield Item(str(path.relative_to(self.root)), version, status.st_size)

    def count(self) -> int:
        return sum(1 for _ in self.items())

    def fetch(self, item: Item) -> Path:
        path = self.root / item.name
        announce(path)
        return path
