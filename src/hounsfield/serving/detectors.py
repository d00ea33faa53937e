"""A package's drift detectors, put beside the inference log for the worker that follows it.

See `hounsfield.drift.packaged`, which reads them, and why it needs nothing else.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hounsfield.errors import AuditError
from hounsfield.package.package import DETECTORS, MANIFEST, Package


def publish_detectors(package: Package, log_dir: Path) -> Path | None:
    """Copy them to `log_dir/detectors/<digest>/`, whole or not at all, and return that folder.

    None when the package has none. What is there already stays: its name is the digest of its content.
    Raises AuditError when the folder cannot be written.
    """
    if package.detectors is None:
        return None
    target = log_dir / DETECTORS / package.digest
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".writing-", dir=target.parent, ignore_cleanup_errors=True
        ) as work:
            draft = Path(work) / package.digest
            shutil.copytree(package.detectors, draft / DETECTORS)
            shutil.copyfile(package.path / MANIFEST, draft / MANIFEST)
            draft.rename(target)
    except OSError as error:
        if not target.exists():  # or another pod's predictor was faster
            raise AuditError(
                f"the detectors cannot be put beside the log {log_dir}: {error.strerror}; make room"
            ) from None
    return target
