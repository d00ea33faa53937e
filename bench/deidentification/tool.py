"""`tool.py TOOL IN OUT`: every file of a folder through one tool, in one process; times as JSON on stdout.

Run by the python of the tool's own environment, so it imports nothing of ours but for TOOL hounsfield.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from pathlib import Path


def main(tool: str, source: Path, target: Path) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    run = TOOLS[tool]()
    failures: dict[str, str] = {}
    files = sorted(source.glob("*.dcm"))
    target.mkdir(parents=True, exist_ok=True)
    started_s = time.perf_counter()
    for path in files:
        try:
            run(path, target / path.name)
        except Exception as error:
            failures[path.name] = f"{type(error).__name__}: {error}"[:200]
            (target / path.name).unlink(missing_ok=True)
    seconds = time.perf_counter() - started_s
    print(json.dumps({"files": len(files), "seconds": seconds, "failures": failures}))


def _hounsfield():
    from hounsfield.dicom.deidentify import deidentify
    from hounsfield.dicom.parsing import load, parse
    from hounsfield.dicom.writing import write

    def run(source: Path, target: Path) -> None:
        write(deidentify(parse(load(source)), b"a key for measurements only"), target)

    return run


def _dicom_anonymizer():
    from dicomanonymizer.simpledicomanonymizer import anonymize_dicom_file, initialize_actions

    def run(source: Path, target: Path) -> None:
        anonymize_dicom_file(
            str(source), str(target), base_rules_gen=lambda: initialize_actions("dicomfields_2026c")
        )

    return run


def _dicognito():
    import pydicom
    from dicognito.anonymizer import Anonymizer

    anonymizer = Anonymizer(seed="a key for measurements only")

    def run(source: Path, target: Path) -> None:
        dataset = pydicom.dcmread(source, force=True)
        anonymizer.anonymize(dataset)
        dataset.save_as(target)

    return run


def _deid():
    from deid.config import DeidRecipe
    from deid.dicom import get_identifiers, replace_identifiers

    recipe = DeidRecipe()

    def run(source: Path, target: Path) -> None:
        ids = get_identifiers([str(source)])
        [dataset] = replace_identifiers([str(source)], deid=recipe, ids=ids, save=False, remove_private=True)
        dataset.save_as(target)

    return run


def _grand_challenge():
    from grand_challenge_dicom_de_identifier.deidentifier import DicomDeidentifier

    tool = DicomDeidentifier()

    def run(source: Path, target: Path) -> None:
        tool.deidentify_file(str(source), output=str(target))

    return run


TOOLS = {
    "hounsfield": _hounsfield,
    "dicom-anonymizer": _dicom_anonymizer,
    "dicognito": _dicognito,
    "deid": _deid,
    "grand-challenge-dicom-de-identifier": _grand_challenge,
}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
