"""`python -m bench.ingest [speed|memory]`: how fast, beside the decoder's own limit; how much memory.

speed: 200 radiographs of 2048 x 2048 pixels with 16 bits (with --compressed as JPEG 2000 lossless), two
processes, every round all paths one after the other, medians of the rounds.

- `limit`: read the file, parse it, `pixel_array`: no path that uses pydicom's decoder can be faster.
- `view`: the same with our view of uncompressed pixels.
- `copy`: the view, SHA-256, and the file written again as it is: what ingest cannot do without.
- `preprocess`: our step, in its sandbox, from files to 128 x 128 tensors on disk.
- `ingest`: our step: the above, SHA-256, de-identification, and the new file written.
- `MONAI, n workers`: LoadImaged with PydicomReader, percentile scaling and Resize in a DataLoader.

memory: the resident memory of ingest, all its processes together, from 1,000 to 50,000 files, as a curve.

Writes build/bench/ingest-*.json and .png. Run it alone: it measures times.
"""

from __future__ import annotations

import argparse
import sys

from bench.ingest.files import OUT
from bench.ingest.memory import memory
from bench.ingest.speed import speed


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ingest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("speed", "memory"))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compressed", action="store_true")
    parser.add_argument("--files", type=int, nargs="+", default=[1000, 5000, 20000, 50000])
    arguments = parser.parse_args(argv)
    OUT.mkdir(parents=True, exist_ok=True)
    if arguments.what == "memory":
        return memory(arguments.files)
    return speed(arguments.images, arguments.rounds, arguments.compressed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
