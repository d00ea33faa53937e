"""Hounsfield: medical-imaging MLOps on Kubeflow Pipelines and KServe."""

__version__ = "0.1.0"
