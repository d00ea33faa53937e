"""The change plan: what a new version may change without a new review, and the line that a candidate breaks.

A predetermined change control plan (section 515C of the FD&C Act, 21 U.S.C. 360e-4) as a file. Only what it
declares may change: a parameter that it does not name, or a property that the package does not tell, is a
breach. `change-plan.schema.json` beside this module is its published schema.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hounsfield.errors import ConfigError
from hounsfield.rollout.candidate import Candidate
from hounsfield.rollout.schema import Keys, LineOf, WrongError, check_schema, dotted, read_yaml

SCHEMA_FILE = Path(__file__).with_name("change-plan.schema.json")


@dataclass(frozen=True)
class ChangePlan:
    """`lines` are those of the file `source`, by dotted keys: the gate is given values, and no file."""

    values: Mapping[str, Any]
    source: str = "change plan"
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)

    @classmethod
    def from_mapping(
        cls, values: Any, source: str = "change plan", line_of: LineOf = lambda keys: None
    ) -> ChangePlan:
        """Check `values` against the schema; ConfigError names the line, the key and the value."""
        try:
            check_schema(values, SCHEMA_FILE)
            _check_ranges(values)
        except WrongError as wrong:
            raise wrong.located(source, line_of) from None
        lines = {dotted(keys): line for keys in _all_keys(values, ()) if (line := line_of(keys)) is not None}
        return cls(values, source, lines)

    @classmethod
    def from_dict(cls, told: Any) -> ChangePlan:
        """What `as_dict` gave, checked again: the gate takes no caller's word for it."""
        try:
            values, source = told["values"], str(told["source"])
            lines = {str(keys): int(line) for keys, line in told["lines"].items()}
        except (TypeError, KeyError, AttributeError, ValueError):
            raise ConfigError("the change plan needs values, source and lines") from None
        return cls.from_mapping(values, source, lambda keys: _nearest(lines, keys))

    def as_dict(self) -> dict[str, Any]:
        return {"values": dict(self.values), "source": self.source, "lines": dict(self.lines)}

    @property
    def digest(self) -> str:
        """SHA-256 of the values: the same for two files that differ in comments only."""
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()

    def breaches(self, candidate: Candidate) -> tuple[str, ...]:
        """A sentence for each line of the plan that `candidate` breaks; none when it is within the plan."""
        return tuple(
            f"{self.source}{_line(_nearest(self.lines, keys))}: {said}"
            for keys, said in _breaches(self.values, candidate)
        )


def load_change_plan(path: Path) -> ChangePlan:
    """Read the YAML plan at `path`; RolloutError when missing or no YAML, ConfigError for a value."""
    values, line_of = read_yaml(path, "the change plan")
    return ChangePlan.from_mapping(values, path.name, line_of)


def _breaches(plan: Mapping[str, Any], candidate: Candidate) -> Iterator[tuple[Keys, str]]:
    model, lineage = candidate.model, candidate.lineage
    intended_use = lineage.get("intended_use")
    if _words(intended_use) != _words(plan["intended_use"]):
        yield ("intended_use",), f"the package is for {_quoted(intended_use)}, which is another intended use"
    if model.get("name") != plan["model"]:
        yield ("model",), f"the package is of the model {_quoted(model.get('name'))}"
    if model.get("architecture") not in plan["architectures"]:
        yield ("architectures",), f"the architecture {_quoted(model.get('architecture'))} is not listed"
    size_px = candidate.contract.get("size_px")
    yield from _outside(("input_size_px",), plan["input_size_px"], size_px, "the input size, pixels,")

    declared = plan["hyperparameters"]
    told = lineage.get("hyperparameters")
    if not isinstance(told, Mapping):
        yield ("hyperparameters",), "the package does not tell its hyperparameters"
    for name, value in sorted((told if isinstance(told, Mapping) else {}).items()):
        if name not in declared:
            yield ("hyperparameters",), f"the hyperparameter {name} is not declared, so it may not be set"
        elif declared[name] != "any":
            yield from _outside(("hyperparameters", name), declared[name], value, name)
    yield from _data_breaches(plan["data"], candidate.profile)


def _data_breaches(plan: Mapping[str, Any], profile: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    for name in ("images", "patients"):
        if name in plan:
            yield from _outside(("data", name), plan[name], profile.get(name), f"the number of {name}")
    fields = profile.get("fields", {})
    for name, bound in plan.get("fields", {}).items():
        keys, found = ("data", "fields", name), fields.get(name, {})
        if isinstance(bound, list):
            counts = found.get("counts")
            if not isinstance(counts, Mapping):
                yield keys, f"the package does not tell the {name} of its data"
                continue
            foreign = sorted(set(counts) - set(bound))
            if foreign:
                yield keys, f"the data have {name} {_quoted(foreign[0])}, which is not listed"
            if found.get("missing"):
                yield keys, f"{found['missing']} images of the data have no {name}"
        else:
            for end in ("min", "max"):
                if end in bound:
                    yield from _outside(keys, {end: bound[end]}, found.get(end), f"the {end} of {name}")


def _outside(keys: Keys, allowed: Any, value: Any, what: str) -> Iterator[tuple[Keys, str]]:
    """One of a list, or a number from `min` to `max`; a value that is not told is outside."""
    if isinstance(allowed, list):
        if value not in allowed:
            yield keys, f"{what} is {_quoted(value)}, which is not one of {', '.join(map(str, allowed))}"
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    low, high = allowed.get("min", float("-inf")), allowed.get("max", float("inf"))
    if not is_number or not low <= value <= high:
        ends = [
            f"{word} {allowed[end]:g}" for word, end in (("from", "min"), ("to", "max")) if end in allowed
        ]
        yield keys, f"{what} is {_quoted(value)}, and the plan allows {' '.join(ends)}"


def _check_ranges(values: Mapping[str, Any]) -> None:
    for keys in _all_keys(values, ()):
        bound = values
        for key in keys:
            bound = bound[key]
        if isinstance(bound, Mapping) and {"min", "max"} <= bound.keys() and bound["min"] > bound["max"]:
            raise WrongError(keys, f"{dotted(keys)} has min {bound['min']} above max {bound['max']}")


def _all_keys(values: Any, keys: Keys) -> Iterator[Keys]:
    if isinstance(values, Mapping):
        for key, inner in values.items():
            yield (*keys, key)
            yield from _all_keys(inner, (*keys, key))


def _nearest(lines: Mapping[str, int], keys: Keys) -> int | None:
    """The line of the keys, or of what they are in."""
    return next((lines[dotted(keys[:n])] for n in range(len(keys), 0, -1) if dotted(keys[:n]) in lines), None)


def _line(line: int | None) -> str:
    return "" if line is None else f" line {line}"


def _words(text: Any) -> list[str]:
    return text.split() if isinstance(text, str) else []


def _quoted(value: Any) -> str:
    """What a package says, kept short: it may have come from anywhere."""
    return "not told" if value is None else repr(value if not isinstance(value, str) else value[:120])
