"""Under which licences a package's parts stand, and what made and runs them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata

MADE_WITH = ("torch", "monai", "onnx", "onnxruntime", "openvino", "shap", "numpy")
DETECTORS_WITH = "alibi-detect 0.11.4"


def licences_text(licence: str, detectors: bool) -> str:
    """LICENCES.md; `licence` is the owner's statement on the model itself."""
    rows = [f"| {name} | {version} | {terms} |" for name, version, terms in map(_installed, MADE_WITH)]
    if detectors:
        name, version = DETECTORS_WITH.split()
        rows.append(f"| {name} (detectors/) | {version} | Apache-2.0 |")
    return "\n".join(
        [
            "# Licences",
            "",
            f"The model, its thresholds and its card: {licence}",
            "",
            "No file of this package holds code of these libraries. They made it, or run it:",
            "",
            "| Library | Version | Licence |",
            "|---|---|---|",
            *rows,
            "",
            "Hounsfield, which wrote the package, is under the Apache License 2.0.",
            "",
        ]
    )


def _installed(name: str) -> tuple[str, str, str]:
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return name, "not installed", "not known"
    terms = found.get("License-Expression") or (found.get("License") or "").strip().partition("\n")[0]
    return name, found["Version"], terms or "see its own files"
