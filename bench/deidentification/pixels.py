"""`python -m bench.deidentification.pixels`: how much text in pixels is found, and what looking costs.

Radiographs without text, for example of the sample set, enlarged, with a line of a made-up name, id or date
drawn into them: any height of letters, place and brightness. As they are, the same pictures count false
alarms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import pydicom

from hounsfield.dicom.deidentify.burned_in import blank, find_text

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "build" / "bench" / "deidentification_pixels.json"
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)
LETTERS_PX = (12, 16, 24, 36)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.deidentification.pixels", description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="DICOM radiographs without text, for example the sample set"
    )
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--side-px", type=int, default=1024)
    arguments = parser.parse_args()
    random = np.random.default_rng(1)
    files = sorted(arguments.folder.rglob("*.dcm"))[: arguments.images]
    found, blanked, alarms, times_s = dict.fromkeys(LETTERS_PX, 0), 0, 0, []
    for number, path in enumerate(files):
        side = arguments.side_px
        plain = cv2.resize(pydicom.dcmread(path).pixel_array, (side, side), interpolation=cv2.INTER_CUBIC)
        started_s = time.perf_counter()
        alarms += bool(find_text(plain))
        times_s.append(time.perf_counter() - started_s)
        letters_px = LETTERS_PX[number % len(LETTERS_PX)]
        picture = draw(plain, letters_px, random)
        boxes = find_text(picture)
        found[letters_px] += bool(boxes)
        blanked += bool(boxes) and not find_text(blank(picture, boxes))
    each = len(files) // len(LETTERS_PX)
    result = {
        "images": len(files),
        "side_px": arguments.side_px,
        "found_of_each_height_px": {px: f"{count} of {each}" for px, count in found.items()},
        "found": sum(found.values()),
        "nothing_left_after_blanking": blanked,
        "false_alarms": alarms,
        "ms_per_image_median": round(1000 * statistics.median(times_s[1:]), 1),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 0


def draw(picture: np.ndarray, letters_px: int, random: np.random.Generator) -> np.ndarray:
    """`picture` with a line of letters `letters_px` high, brighter than nearly all around."""
    name = "".join(random.choice(list("ABCDEFGHIKLMNOPRSTUVW"), 6))
    text = random.choice(
        [f"{name}^ANNA", f"ID {random.integers(10**6, 10**7)}", f"{name} 19{random.integers(30, 99)}-04-17"]
    )
    font = FONTS[random.integers(len(FONTS))]
    scale = cv2.getFontScaleFromHeight(font, letters_px, 1)
    (width, height), _ = cv2.getTextSize(text, font, scale, 1 + letters_px // 16)
    at = (
        int(random.integers(4, max(5, picture.shape[1] - width - 4))),
        int(random.integers(height + 4, picture.shape[0] - 8)),
    )
    letters = np.zeros(picture.shape, np.uint8)
    cv2.putText(letters, text, at, font, scale, 255, 1 + letters_px // 16)
    drawn = picture.copy()
    drawn[letters > 127] = np.quantile(picture, random.choice([0.99, 1.0]))
    return drawn


if __name__ == "__main__":
    raise SystemExit(main())
