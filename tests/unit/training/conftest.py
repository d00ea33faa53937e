"""Networks this small train faster on one thread; and weights agree to the bit for one number of threads."""

import os

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads, told = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    torch.set_num_threads(threads)
    if told is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = told
