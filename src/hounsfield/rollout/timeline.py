"""A rollout as a line in time: what the canary got, and how the evidence grew, for a picture of it."""

from __future__ import annotations

from typing import Any

from hounsfield.rollout.ledger import Story


def timeline(story: Story) -> list[dict[str, Any]]:
    """The moves and looks of `story` in order, as JSON values.

    `at_s` counts from its start. A move has `kind` move and the traffic from then on (`weight` percent,
    `shadow`, `first`). A look has `kind` look (late_look for labels after the end), its `decision`, and how
    far the evidence is on its way (0 to 1, which decides): `proof` of the guardrail that is furthest behind,
    None when none can be judged yet, and `harm` over all.
    """
    moves = [{"kind": "move", **_traffic(record)} for record in story.moves]
    looks = [{"kind": "look", **_traffic(record), **_evidence(record)} for record in story.verdicts]
    late = [{"kind": "late_look", "at": record["at"], **_evidence(record)} for record in story.late]
    found = sorted([*moves, *looks, *late], key=lambda point: point["at"])
    return [{"at_s": round(point.pop("at") - story.started_at, 3), **point} for point in found]


def _traffic(record: dict[str, Any]) -> dict[str, Any]:
    return {"at": record["at"], **{name: record.get(name, False) for name in ("weight", "shadow", "first")}}


def _evidence(record: dict[str, Any]) -> dict[str, Any]:
    verdict, numbers = record["verdict"], record["verdict"]["numbers"]
    proofs = [found["proof"] for found in verdict["findings"] if found["standing"] != "UNASSESSABLE"]
    return {
        "decision": verdict["decision"],
        "proof": _part(min(proofs), numbers["proof_wanted"]) if proofs else None,
        "harm": _part(numbers["harm"], numbers["harm_wanted"]),
    }


def _part(value: float, wanted: float) -> float:
    return round(min(max(value / wanted, 0.0), 1.0), 4)
