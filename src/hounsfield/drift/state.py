"""What the worker knows, on the disk whole or not at all: where it is in each log, and the windows that fill.

Both are in one file, so a worker that is killed goes on from a moment at which they fitted each other, reads
the records since then again, and comes to the same windows and numbers as one that was never interrupted.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hounsfield.audit.reader import Cursor
from hounsfield.drift.stream import ModelStream
from hounsfield.errors import ConfigError, PlatformError

FILE = "state.json"
VERSION = 1
MOST_MODELS = 8
"""Models that are remembered: the oldest of more has long been replaced."""


@dataclass
class State:
    """`cursors` by log, `models` by package digest, the last one that was heard of at the end."""

    cursors: dict[str, Cursor] = field(default_factory=dict)
    models: dict[str, ModelStream] = field(default_factory=dict)
    predictions: Counter[str] = field(default_factory=Counter)

    def model(self, digest: str, name: str, version: str) -> ModelStream:
        """The stream of the model, a new one when it is new."""
        if digest not in self.models:
            self.models[digest] = ModelStream(name, version)
            for old in list(self.models)[:-MOST_MODELS]:
                del self.models[old]
        return self.models[digest]


def load_state(folder: Path) -> State:
    """The state in `folder`, a new one when there is none. ConfigError for something else in its place."""
    path = folder / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["version"] != VERSION:
            raise ValueError
        return State(
            cursors={name: Cursor(**cursor) for name, cursor in values["cursors"].items()},
            models={digest: ModelStream.from_dict(model) for digest, model in values["models"].items()},
            predictions=Counter(values["predictions"]),
        )
    except FileNotFoundError:
        return State()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{path} is not the state of this version of the drift worker; "
            "move it away to read the logs from their beginning"
        ) from None


def save_state(folder: Path, state: State) -> None:
    """Replace the state in `folder`. Raises PlatformError when the disk refuses; the old one then stays."""
    values = {
        "version": VERSION,
        "cursors": {name: asdict(cursor) for name, cursor in state.cursors.items()},
        "models": {digest: model.as_dict() for digest, model in state.models.items()},
        "predictions": dict(state.predictions),
    }
    part = folder / f".{FILE}"
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(values, file, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / FILE)
    except OSError as error:
        raise PlatformError(
            f"the drift worker's state {folder} cannot be written: {error.strerror}; make room"
        ) from None
