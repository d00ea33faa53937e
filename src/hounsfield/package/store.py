"""The store that packages are published to, and that KServe's `storageUri` points into."""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hounsfield.errors import PackageError
from hounsfield.explain.checks import stability
from hounsfield.package.package import ATTRIBUTIONS, MANIFEST, Package, load_package
from hounsfield.package.sign import SIGNATURE


def publish(package: Package, store_uri: str) -> str:
    """Copy `package` with its signature to `store_uri/<digest>` unless it is there, and return that URI.

    A copy that is there takes over the signature of `package`, if it has one. `store_uri` is a folder, a
    `file://` URI, or any URI that fsspec opens, such as `s3://models`. A local copy appears whole or not at
    all.
    """
    if "://" in store_uri and not store_uri.startswith("file://"):
        return _publish_remotely(package, store_uri)
    root = Path(store_uri.removeprefix("file://")).resolve()
    target = root / package.digest
    if not target.exists():
        root.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".publishing-", dir=root))
        try:
            shutil.copytree(package.path, draft / "package")
            (draft / "package").rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    elif (package.path / SIGNATURE).is_file():
        draft = Path(tempfile.mkdtemp(prefix=".publishing-", dir=root))
        try:
            shutil.copyfile(package.path / SIGNATURE, draft / SIGNATURE)
            (draft / SIGNATURE).replace(target / SIGNATURE)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    load_package(target)
    return target.as_uri()


def _publish_remotely(package: Package, store_uri: str) -> str:
    import fsspec

    target = f"{store_uri.rstrip('/')}/{package.digest}"
    try:
        files, root = fsspec.core.url_to_fs(target)
        # The manifest goes last: a folder without one is no package, so a broken upload is never loaded.
        manifest, signature = package.path / MANIFEST, package.path / SIGNATURE
        if not files.exists(f"{root}/{MANIFEST}"):
            for file in sorted(package.path.rglob("*")):
                if file.is_file() and file not in (manifest, signature):
                    files.put_file(str(file), f"{root}/{file.relative_to(package.path).as_posix()}")
        if signature.is_file():
            files.put_file(str(signature), f"{root}/{SIGNATURE}")
        files.put_file(str(manifest), f"{root}/{MANIFEST}")
    except (ImportError, OSError, ValueError) as error:
        raise PackageError(f"the package store {store_uri} cannot be written: {error}") from None
    return target


def attribution_stability(package: Package, published: str) -> dict[str, Any] | None:
    """`explain.checks.stability` of `package` against the package at the URI `published`.

    None where either was not asked to explain the phantoms. Raises PackageError when the store cannot be
    read.
    """
    import fsspec

    if package.attributions is None:
        return None
    try:
        with fsspec.open(f"{published}/{ATTRIBUTIONS}") as stream:
            champion = np.load(io.BytesIO(stream.read()), allow_pickle=False)
    except FileNotFoundError:
        return None
    except (ImportError, OSError, ValueError) as error:
        raise PackageError(f"{ATTRIBUTIONS} of the package {published} cannot be read: {error}") from None
    return stability(package.attributions, champion)
