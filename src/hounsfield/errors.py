"""Errors that a person can act on.

Every message is one or two sentences that name the thing, its value and what to do. No message
ever holds patient data: a patient is named by the row of the labels file or by the SHA-256 of a
file, never by an identifier, a name, a date or a path below the data folder.
"""


class HounsfieldError(Exception):
    """An error that is the user's to fix; the command line prints it and exits with `exit_code`."""

    exit_code = 2


class ConfigError(HounsfieldError):
    """A parameter, environment variable or configuration file is wrong."""


class DataError(HounsfieldError):
    """The images given cannot be used as a set: none readable, one class only, too few patients."""


class LabelError(HounsfieldError):
    """The labels file is missing, malformed, or does not fit the images."""


class TrainingError(HounsfieldError):
    """Training cannot start or cannot go on: divergence, a checkpoint of another architecture."""


class PackageError(HounsfieldError):
    """A model package is incomplete, altered, or does not fit the code that loads it."""


class RegistryError(HounsfieldError):
    """The model registry cannot be reached or does not hold what was asked for."""


class ServingError(HounsfieldError):
    """A served model cannot be reached or answered with an error."""


class PlatformError(HounsfieldError):
    """The machine is in the way: a port in use, no disk space, a missing program."""


class ClusterError(HounsfieldError):
    """The Kubernetes or the Kubeflow Pipelines API refuses, or does not answer."""


class GuardError(HounsfieldError):
    """A command in the guard environment (Seldon Core, alibi-detect) failed."""


class RolloutError(HounsfieldError):
    """A rollout cannot start or go on: a policy that does not parse, a tree edited by someone else."""


class AuditError(HounsfieldError):
    """A hash-chained log was edited, or a record is missing, added or out of order."""
