"""Reads what a tool wrote and says which actions it got right. Knows the planted values, not the tools."""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset

from bench.deidentification.hard_set import Action, Path_

_ENCODINGS = ("utf-8", "latin-1", "gb18030", "iso2022_jp", "utf-16-le")


@dataclass
class Score:
    """Actions and right ones by kind, over all files of one tool."""

    actions: Counter = field(default_factory=Counter)
    right: Counter = field(default_factory=Counter)
    examples: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    uids: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def count(self, action: Action, is_right: bool) -> None:
        self.actions[action.kind] += 1
        self.right[action.kind] += is_right
        if not is_right:
            self.examples[(action.kind, f"{action.tag:08X} depth {len(action.path)} {action.rule}")] += 1

    def share(self, *kinds: str) -> float:
        """Of the actions of these kinds, of all without any; 0 where none was seen."""
        kinds = kinds or tuple(self.actions)
        total = sum(self.actions[kind] for kind in kinds)
        return sum(self.right[kind] for kind in kinds) / total if total else 0.0


def judge_file(written: bytes, actions: list[Action], score: Score) -> Dataset:
    """Count every action of one file; returns the dataset that was read from `written`."""
    output = pydicom.dcmread(BytesIO(written), force=True)
    for action in actions:
        score.count(action, is_right(action, written, output, score.uids))
    return output


def is_right(action: Action, written: bytes, output: Dataset, uids: dict[str, set[str]]) -> bool:
    found = _at(output, action.path, action.tag)
    if action.rule == "may stay":
        return True
    if action.rule == "kept":
        value = action.value
        return found is not None and (found == value if isinstance(value, bytes) else str(found) == value)
    if action.rule == "age":
        return (
            str(found or "") != action.value or int(action.value[:3]) <= 90
        )  # 90 is the name of all above 89
    if action.rule == "changed":
        return found is None or str(found) != action.value
    if action.rule == "uid":
        if _is_in(action.value, written):
            return False
        if found:
            uids[action.value].add(str(found))
        is_link = not action.path and action.tag in (0x0020000D, 0x0020000E, 0x00080018, 0x00200052)
        return (bool(found) or not is_link) and len(uids[action.value]) <= 1
    gone = not _is_in(action.value, written)
    return gone and (action.rule != "there" or _is_present(output, action.path, action.tag))


def judge_interval(sources: list[Dataset], outputs: list[Dataset], score: Score) -> None:
    """Two studies of one patient are as far apart as they were, or their dates are gone."""
    for keyword, layout, tag in (
        ("StudyDate", "%Y%m%d", 0x00080020),
        ("AcquisitionDateTime", "%Y%m%d%H%M%S.%f", 0x0008002A),
    ):
        moments = [[_moment(ds.get(keyword), layout) for ds in pair] for pair in (sources, outputs)]
        action = Action((), tag, "interval", "interval", "")
        if None in moments[1]:
            score.count(action, all(not ds.get(keyword) for ds in outputs))
            continue
        before, after = (pair[1] - pair[0] for pair in moments)
        score.count(action, before == after)


def judge_patient(outputs: list[Dataset], score: Score) -> None:
    """Both files are still of one patient: the same new id, and one frame of reference."""
    for keyword, tag in (("PatientID", 0x00100020), ("FrameOfReferenceUID", 0x00200052)):
        values = {str(ds.get(keyword, "")) for ds in outputs}
        score.count(Action((), tag, "link", "link", ""), len(values) == 1)


def _moment(value: object, layout: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.strptime(str(value), layout)
    except ValueError:
        return None


def _is_in(value: str | bytes, written: bytes) -> bool:
    if isinstance(value, bytes):
        return value in written
    if value.isascii():
        parts = [value] if "^" not in value else [part for part in value.split("^") if len(part) > 3]
        return any(part.encode() in written for part in parts)
    return any(_is_in_encoded(part, written) for part in value.replace("=", "^").split("^") if part)


def _is_in_encoded(part: str, written: bytes) -> bool:
    if part.isascii():
        return part.encode() in written
    for encoding in _ENCODINGS:
        try:
            encoded = part.encode(encoding)
        except UnicodeEncodeError:
            continue
        # An ISO 2022 text is told by what stands between its escapes.
        if encoded.removeprefix(b"\x1b$B").removesuffix(b"\x1b(B") in written:
            return True
    return False


def _at(dataset: Dataset, path: Path_, tag: int) -> object:
    for sequence, number in path:
        if sequence not in dataset or dataset[sequence].VR != "SQ" or len(dataset[sequence].value) <= number:
            return None
        dataset = dataset[sequence].value[number]
    return dataset[tag].value if tag in dataset else None


def _is_present(dataset: Dataset, path: Path_, tag: int) -> bool:
    return not path and tag in dataset
