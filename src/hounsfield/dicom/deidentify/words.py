"""Words that name somebody, and words that cannot: what is looked for in the text that is kept."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable

MIN_WORD = 3
"""Shorter parts of names (Li, Ng) are also abbreviations of machines and views; see `vocabulary`."""
MIN_IDENTIFIER = 4
_CONTAINED_FROM = 6
"""From this length on an identifier is also found inside of a longer word."""

_WORD = re.compile(r"[^\W_]+")
_PROTOCOL_WORDS = (
    "ax axial sag sagittal cor coronal obl oblique t1 t2 t1w t2w pd pdw dwi adc flair stir tse fse gre "
    "se ge epi vibe mprage space tof swi dixon haste bold asl mra mrv mrcp ct cta hrct mr mri us xr cr "
    "dx mg pt pet nm xa rf spect ap pa lat lateral ll rl rld lld rlo llo rao lao cc mlo ml lm frog leg "
    "swimmers odontoid scout topogram localizer survey recon thin thick soft sharp bone lung "
    "mediastinum window kernel contrast with without w wo iv oral pre post delayed arterial venous "
    "portal phase native enhanced fs fatsat fat sat breath hold inspiration expiration erect supine "
    "prone upright standing sitting portable bedside mobile grid left right both bilateral unilateral "
    "lt rt l r upper lower limb extremity stress weight bearing view views series study exam image "
    "images derived primary secondary original routine protocol standard screening follow up control "
    "baseline chest thorax abdomen pelvis head neck spine cspine tspine lspine skull brain knee hip "
    "foot ankle wrist hand elbow shoulder finger toe rib ribs clavicle scapula sternum sacrum coccyx "
    "femur tibia fibula humerus radius ulna kub trauma dose low high resolution isotropic mm cm kv kvp "
    "ma mas ms hu and of the in for on to by from at no not 2d 3d 4d min max mip mpr mean std kidney "
    "renal spleen cardiac aorta pulmonary coronary"
)
_PROTOCOL = frozenset(_PROTOCOL_WORDS.split())
_CONTEXT_GROUPS = (12, 4009, 4010, 4011, 4014, 4028, 4031)
"""PS3.16: contrast agents, directions of view and anatomy. Not 4012 and 4030, which hold names of persons."""


@functools.lru_cache(maxsize=4096)
def normal_words(text: str) -> tuple[str, ...]:
    """Words of `text` without case, accents and punctuation, so that MÜLLER^Jörg is found in 'muller'."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return tuple(_WORD.findall("".join(c for c in plain if not unicodedata.combining(c))))


class Names:
    """What names somebody in one file: `person_names` are PN values, `identifiers` ids and addresses."""

    def __init__(self, person_names: Iterable[str], identifiers: Iterable[str]) -> None:
        self._words: set[str] = set()
        self._contained: set[str] = set()
        for name in person_names:
            words = normal_words(name)
            self._words.update(word for word in words if len(word) >= MIN_WORD or not word.isascii())
            self._add_contained(words)
            self._add_contained(words[1::-1])
            self._contained.update(word for word in words if not word.isascii())
        for identifier in identifiers:
            words = normal_words(identifier)
            if len("".join(words)) >= MIN_IDENTIFIER:
                self._words.add("".join(words))
            self._add_contained(words)

    def _add_contained(self, words: tuple[str, ...]) -> None:
        if len(joined := "".join(words)) >= _CONTAINED_FROM:
            self._contained.add(joined)

    def occur_in(self, text: str) -> bool:
        if not (self._words or self._contained):
            return False
        words = normal_words(text)
        if not self._words.isdisjoint(words):
            return True
        joined = "".join(words)
        return joined in self._words or any(part in joined for part in self._contained)


@functools.cache
def vocabulary() -> frozenset[str]:
    """Words of radiology, lower case: from pydicom's code dictionary and the usual words of protocols."""
    from pydicom.sr.codedict import codes

    words = set(_PROTOCOL)
    for number in _CONTEXT_GROUPS:
        collection = getattr(codes, f"CID{number}", None)
        for keyword in collection.dir() if collection is not None else ():
            words.update(normal_words(getattr(collection, keyword).meaning))
    return frozenset(word for word in words if not word.isdigit())


def clean_description(text: str, names: Names) -> str:
    """The words of `text` that are in the vocabulary, or a number of at most two digits, and name nobody."""
    kept = []
    for word in re.split(r"[^\w/]+", text):
        parts = normal_words(word)
        known = parts and all(p in vocabulary() or (p.isdigit() and len(p) < 3) for p in parts)
        if known and not names.occur_in(word):
            kept.append(word)
    return " ".join(kept)
