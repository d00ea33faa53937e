"""The metric lines of a trial, read as Katib's StdOut collector reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable

# The default filter of Katib's collector: a metric may be reported anywhere in a line, as name=value.
DEFAULT_FILTER = r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)"


def read_metrics(
    lines: Iterable[str], names: Iterable[str], filters: Iterable[str] = (DEFAULT_FILTER,)
) -> dict[str, list[float]]:
    """Every value of each metric of `names`, in the order reported.

    Of each filter's groups the first is the name and the second the value. A name that is only part of a
    longer one does not count, and neither does a value that is not a number.
    """
    found: dict[str, list[float]] = {name: [] for name in names}
    compiled = [re.compile(pattern) for pattern in filters]
    for line in lines:
        if not any(name in line for name in found):
            continue
        for pattern in compiled:
            for match in pattern.finditer(line):
                name, value = match[1].strip(), match[2].strip()
                if name in found:
                    try:
                        found[name].append(float(value))
                    except ValueError:
                        continue
    return found
