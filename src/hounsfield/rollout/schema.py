"""Values read from YAML, checked against a published JSON schema; errors name line, key and value.

The schemas beside this module hold the words of their errors: `description` completes "it must be ...".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hounsfield.errors import ConfigError, RolloutError

Keys = tuple[str | int, ...]
"""Where a value stands: keys of mappings and indices of lists, from the top."""

LineOf = Callable[[Keys], int | None]


class WrongError(Exception):
    """A value that is not allowed, and the keys that lead to it."""

    def __init__(self, keys: Keys, message: str) -> None:
        super().__init__(message)
        self.keys = keys

    def located(self, source: str, line_of: LineOf) -> ConfigError:
        """The same as an error for a person, with the line by `line_of` where it is known."""
        line = line_of(self.keys)
        return ConfigError(f"{source if line is None else f'{source} line {line}'}: {self}")


def read_yaml(path: Path, what: str) -> tuple[Any, LineOf]:
    """The values of the YAML file at `path` and the lines that they stand on; RolloutError when it is none.

    `what` says what is wanted there, for example `the policy`.
    """
    from ruamel.yaml import YAML  # the guard environment, which gets its values as JSON, has no ruamel
    from ruamel.yaml.error import YAMLError

    if not path.is_file():
        raise RolloutError(
            f"{what} {path} does not exist; the one of manifests/base/rollout is one to start from"
        )
    try:
        text = path.read_text(encoding="utf-8")
        document, values = YAML().load(text), YAML(typ="safe").load(text)
    except (YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name} line {mark.line + 1}" if mark else path.name
        raise RolloutError(
            f"{where}: this is not YAML: {getattr(error, 'problem', None) or 'it is not text'}"
        ) from None
    return values, lambda keys: _line(document, keys)


def check_schema(values: Any, schema: Mapping[str, Any] | Path) -> None:
    """Return if `values` fit; raises WrongError for the first that does not, in the order of the keys."""
    import jsonschema

    if not isinstance(values, Mapping):
        raise WrongError((), f"it must be a mapping of keys to values, not {type(values).__name__}")
    for keys, value in _leaves(values, ()):
        if isinstance(value, float) and not math.isfinite(value):  # a schema lets NaN through every bound
            raise WrongError(keys, f"{dotted(keys)} is {value}; it must be a finite number")
    if isinstance(schema, Path):
        schema = json.loads(schema.read_text(encoding="utf-8"))
    # The guard environment's jsonschema is older; our schemas use no word that it lacks.
    validator = getattr(jsonschema, "Draft202012Validator", None) or jsonschema.Draft7Validator
    errors = sorted(validator(schema).iter_errors(values), key=lambda error: list(map(str, error.path)))
    for error in errors:
        keys = tuple(error.absolute_path)
        if error.validator == "oneOf" and isinstance(error.instance, Mapping):
            # A step that is written as a mapping: what is wrong inside it, not that it is no number.
            error = next(inner for inner in error.context if inner.schema_path[0] == 1)
            keys += tuple(error.path)
        if error.validator == "additionalProperties" and error.validator_value is False:
            known = error.schema["properties"]
            unknown = sorted(key for key in error.instance if key not in known)[0]
            raise WrongError(
                (*keys, unknown),
                f"unknown key {dotted((*keys, unknown))!r}; known keys are {', '.join(known)}",
            )
        if error.validator == "required":
            missing = next(key for key in error.validator_value if key not in error.instance)
            raise WrongError(keys, f"key {dotted((*keys, missing))!r} is missing")
        wanted = error.schema.get("description", error.message)
        raise WrongError(keys, f"{dotted(keys)} is {error.instance!r}; it must be {wanted}")


def dotted(keys: Keys) -> str:
    return ".".join(map(str, keys))


def _leaves(value: Any, keys: Keys) -> Iterator[tuple[Keys, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*keys, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*keys, index))
    else:
        yield keys, value


def _line(document: Any, keys: Keys) -> int | None:
    """The line (from 1) at which ruamel's round-trip `document` has the last of `keys` that it has."""
    line = None
    for key in keys:
        try:
            line = (document.lc.item(key) if isinstance(key, int) else document.lc.key(key))[0] + 1
            document = document[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line
