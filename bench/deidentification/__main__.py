"""`python -m bench.deidentification`: a million actions, pydicom's files and speed, ours beside other tools.

`--peers` makes the environments of the other tools under build/bench/deidentification/peers first. Writes
build/bench/deidentification.json and prints the table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pydicom
from pydicom.data import get_testdata_file

from bench.deidentification.bundled import judge_bundled
from bench.deidentification.hard_set import PERSONAL, Action, Maker, table
from bench.deidentification.judge import Score, judge_file, judge_interval, judge_patient

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "bench" / "deidentification"
RESULT = ROOT / "build" / "bench" / "deidentification.json"
PEERS = {
    "dicom-anonymizer": "dicom-anonymizer==2.1.0",
    "dicognito": "dicognito==0.19.0",
    "deid": "deid==0.4.13",
    "grand-challenge-dicom-de-identifier": "grand-challenge-dicom-de-identifier==0.1.1",
}
PARTS = ("hard", "bundled", "speed")
SPEED_FILES, SPEED_ROUNDS = 150, 3


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.deidentification", description=__doc__)
    parser.add_argument("--peers", action="store_true", help="make the other tools' environments first")
    parser.add_argument("--patients", type=int, default=400, help="two files of about 1,300 actions each")
    parser.add_argument(
        "--part", action="append", default=[], choices=PARTS, help="one part, the rest as it was"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="TOOL", help="one tool, for example hounsfield"
    )
    arguments = parser.parse_args(argv)
    if arguments.peers:
        _make_peers()
    pythons = {"hounsfield": sys.executable} | {
        name: str(WORK / "peers" / name / "bin" / "python") for name in PEERS
    }
    if not Path(pythons["dicom-anonymizer"]).exists():
        raise SystemExit("the other tools are not installed: run `python -m bench.deidentification --peers`")
    for name in arguments.only:
        if name not in pythons:
            raise SystemExit(f"{name} is not one of {', '.join(pythons)}")
    parts = arguments.part or list(PARTS)
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    made = _write_hard_set(arguments.patients) if "hard" in parts else None
    speed = _write_speed_set() if "speed" in parts else None
    for name in arguments.only or pythons:
        python = pythons[name]
        result = results.setdefault(name, {})
        if made is not None:
            result["hard"] = _judge_hard(name, python, *made)
        if "bundled" in parts:
            result["bundled"] = judge_bundled(WORK, lambda a, b, n=name, p=python: _run(n, p, a, b))
        if speed is not None:
            result["files_per_s"] = _speed(name, python, speed)
        print(_row(name, result), flush=True)
        RESULT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def _make_peers() -> None:
    for name, requirement in PEERS.items():
        home = WORK / "peers" / name
        if not (home / "bin" / "python").exists():
            venv.create(home, with_pip=True)
        subprocess.run([home / "bin" / "pip", "install", "--quiet", requirement], check=True)


def _run(name: str, python: str, source: Path, target: Path) -> dict:
    """All files of `source` through a tool; what `tool.py` says of it."""
    shutil.rmtree(target, ignore_errors=True)
    script = Path(__file__).with_name("tool.py")
    done = subprocess.run(
        [python, script, name, source, target], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return json.loads(done.stdout.decode().strip().splitlines()[-1])


def _write_hard_set(patients: int) -> tuple[Path, dict[str, list[Action]], dict[str, Path]]:
    folder = WORK / "hard"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    planted, sources = {}, {}
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE  # half of the time otherwise
    maker = Maker(table(WORK / "peers" / "dicom-anonymizer"))
    for number, pair in enumerate(maker.patients(patients)):
        for half, (dataset, actions) in enumerate(pair):
            name = f"{number:05d}-{half}.dcm"
            dataset.save_as(folder / name, enforce_file_format=True)
            planted[name], sources[name] = actions, folder / name
    return folder, planted, sources


def _judge_hard(
    name: str, python: str, hard: Path, planted: dict[str, list[Action]], sources: dict[str, Path]
) -> dict:
    target = WORK / "out" / name / "hard"
    said = _run(name, python, hard, target)
    score, pair = Score(), []
    for file, actions in planted.items():
        if not (target / file).exists():
            pair = []
            continue
        pair.append(
            (pydicom.dcmread(sources[file]), judge_file((target / file).read_bytes(), actions, score))
        )
        if file.endswith("-1.dcm"):
            if len(pair) == 2:
                judge_interval([source for source, _ in pair], [output for _, output in pair], score)
                judge_patient([output for _, output in pair], score)
            pair = []
    return {
        "files": said["files"],
        "refused": len(said["failures"]),
        "refusals": sorted(set(said["failures"].values()))[:5],
        "actions": sum(score.actions.values()),
        "right": score.share(),
        "personal": score.share(*PERSONAL),
        "by_kind": {kind: [score.right[kind], score.actions[kind]] for kind in sorted(score.actions)},
        "most_wrong": [
            [*what, count] for what, count in sorted(score.examples.items(), key=lambda e: -e[1])[:12]
        ],
    }


def _write_speed_set() -> Path:
    """The CT of pydicom's bundled files, enlarged to 512 x 512, under many UIDs."""
    folder = WORK / "speed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    pixels = np.random.default_rng(1).integers(-1000, 2000, (512, 512)).astype(np.int16)
    dataset.Rows = dataset.Columns = 512
    dataset.PixelData = pixels.tobytes()
    for number in range(SPEED_FILES):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        dataset.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    return folder


def _speed(name: str, python: str, speed: Path) -> list[float]:
    """Files a second, sorted, of several rounds in processes of their own."""
    rounds = [_run(name, python, speed, WORK / "out" / name / "speed") for _ in range(SPEED_ROUNDS)]
    return sorted(round(said["files"] / said["seconds"], 1) for said in rounds)


def _row(name: str, result: dict) -> str:
    said = [f"{name:36}"]
    if hard := result.get("hard"):
        said.append(f"{hard['right']:9.4%} of {hard['actions']:,}, personal {hard['personal']:.4%}")
        said.append(f"refused {hard['refused']} of {hard['files']}")
    if bundled := result.get("bundled"):
        said.append(f"bundled: {bundled['leaking']} of {bundled['written']} leak, {bundled['worse']} worse")
    if speed := result.get("files_per_s"):
        said.append(f"{speed[len(speed) // 2]} files/s ({speed[0]} to {speed[-1]})")
    return "; ".join(said)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
