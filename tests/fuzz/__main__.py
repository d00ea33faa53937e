"""`python -m tests.fuzz request|dicom [--seconds 300]`: atheris on one target (install the extra `fuzz`).

Ends with status 0 when nothing was found; what is found is left in build/fuzz/<target>/found, and becomes a
unit test.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build" / "fuzz"
INSTRUMENTED = [
    "hounsfield.dicom",
    "hounsfield.serving",
    *(f"pydicom.{name}" for name in ("filereader", "fileutil", "filebase", "dataelem", "values", "encaps")),
]


def main(argv: list[str]) -> int:
    import atheris

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=("request", "dicom"))
    parser.add_argument("--seconds", type=int, default=300)
    arguments = parser.parse_args(argv)
    with atheris.instrument_imports(include=INSTRUMENTED):
        module = importlib.import_module(f"tests.fuzz.fuzz_{arguments.target}")
        corpus = importlib.import_module("tests.fuzz.corpus")
    folder = FOLDER / arguments.target
    (folder / "found").mkdir(parents=True, exist_ok=True)
    corpus.write(module.seeds(), folder / "corpus")
    words = folder / "words.txt"
    words.write_text("".join('"' + word.replace('"', '\\"') + '"\n' for word in module.WORDS))
    with module.target() as one:
        options = [
            f"-max_total_time={arguments.seconds}",
            f"-artifact_prefix={folder / 'found'}/",
            f"-dict={words}",
            "-max_len=32768",
            "-timeout=25",
            "-rss_limit_mb=4096",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *options, str(folder / "corpus")], one)
        atheris.Fuzz()  # ends the process
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
