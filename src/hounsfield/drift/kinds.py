"""Which kind of drift it is: what the detectors that raise an alarm have in common.

acquisition   how the pictures are made: the header says another machine or view, or pictures of the same
              score look different.
population    who the patients are: the header says another sex or age; pictures of others look different.
label         how many are called positive, of pictures that look as before: another prevalence.
model output  the scores moved, and nothing else says why.
"""

from __future__ import annotations

from collections.abc import Mapping

from hounsfield.drift.detectors import EMBEDDING, FIELDS, LABEL, PROJECTION, SCORE, Result

ACQUISITION, POPULATION, LABELS, OUTPUT = "acquisition", "population", "label", "model output"
SURE = 0.01
"""Of a detector's threshold; p-values of other prevalences stay above it, those of another window do not."""
OF_FIELD = {
    "manufacturer": ACQUISITION,
    "view_position": ACQUISITION,
    "patient_sex": POPULATION,
    "age_band": POPULATION,
}


def kinds(found: Mapping[str, Result]) -> tuple[str, ...]:
    """The kinds of drift that the answers of one window amount to, none without an alarm."""
    raised = {name for name, result in found.items() if result.is_drift}
    named = set()
    if FIELDS in raised:
        fields = found[FIELDS]
        level = fields.threshold / len(fields.by_field)  # that of one field's test
        named = {OF_FIELD.get(field, POPULATION) for field, p in fields.by_field.items() if p < level}
    answers_moved = LABEL in raised or raised >= {EMBEDDING, SCORE}
    # The score does not foretell all of a picture: where something else says why, the pictures must be sure.
    sure = SURE if answers_moved or POPULATION in named else 1.0
    if PROJECTION in raised and found[PROJECTION].p_value < sure * found[PROJECTION].threshold:
        named.add(ACQUISITION)
    elif ACQUISITION not in named and answers_moved:
        named.add(LABELS)
    if EMBEDDING in raised and not named:
        named.add(ACQUISITION)
    if SCORE in raised and not named:
        named.add(OUTPUT)
    return tuple(kind for kind in (ACQUISITION, POPULATION, LABELS, OUTPUT) if kind in named)
