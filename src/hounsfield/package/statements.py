"""What people must say about a model, because no number says it: the card's written part.

`statements.json` beside this file is the default, for the sample set's finding: a team edits it in its clone.
What the model is for stands in `config.INTENDED_USE`, since the change plan holds each candidate to it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from hounsfield.config import from_mapping
from hounsfield.errors import ConfigError, PackageError

DEFAULT = Path(__file__).with_name("statements.json")


@dataclasses.dataclass(frozen=True)
class Statements:
    """Each is mandatory, and none may be empty."""

    owner: str
    licence: str
    intended_users: str
    not_for: tuple[str, ...]
    risks: tuple[str, ...]
    limits: tuple[str, ...]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            sentences = [value] if field.type == "str" else value
            if not isinstance(sentences, (list, tuple)) or not all(isinstance(s, str) for s in sentences):
                kind = "sentence" if field.type == "str" else "list of sentences"
                raise PackageError(f"model card: {field.name} is no {kind}")
            if not sentences or not all(each.strip() for each in sentences):
                raise PackageError(f"model card: {field.name} is empty; write it in {DEFAULT.name}")
            if field.type != "str":
                object.__setattr__(self, field.name, tuple(sentences))

    @classmethod
    def load(cls, path: Path = DEFAULT) -> Statements:
        """Read `path`; PackageError that names the field that is missing, unknown or empty."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return from_mapping(cls, dict(values), path.name)
        except ConfigError as error:
            raise PackageError(f"model card: {error}") from None
        except (OSError, ValueError, TypeError):
            raise PackageError(f"model card: {path} is missing, or is no JSON object") from None
