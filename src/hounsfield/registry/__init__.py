"""The model registry: MLflow, by aliases and tags, never by stages."""

from hounsfield.registry.registry import CANDIDATE, CHAMPION, ModelVersion, Registry

__all__ = ["CANDIDATE", "CHAMPION", "ModelVersion", "Registry"]
