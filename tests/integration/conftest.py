"""Fixtures of the tests that talk to a real predictor process."""

import numpy as np
import pytest

from hounsfield.dicom.reading import read_image
from hounsfield.imaging.contract import prepare
from hounsfield.package.engine import Engine, calibrate
from tests.integration.predictor_process import CONTRACT, make_package, radiograph, start, stop


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    return make_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def server(package, tmp_path_factory):
    running = start(package, tmp_path_factory.mktemp("server") / "log.txt")
    yield running
    stop(running)


@pytest.fixture(scope="session")
def scan(tmp_path_factory):
    return radiograph(tmp_path_factory.mktemp("scan"), seed=7)


@pytest.fixture(scope="session")
def expected(package, scan):
    """The probability of `scan`, float32, by the code that training and evaluation use."""
    logit, _ = Engine(package.onnx).run(prepare(read_image(scan), CONTRACT)[np.newaxis])
    return calibrate(logit, 2.0)[0]
