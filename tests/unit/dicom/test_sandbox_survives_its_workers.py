import multiprocessing
import os
import platform
import resource
import time

import pytest

from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.dicom.sandbox import Sandbox


def square_unless_hostile(number):
    if number == 3:
        os.abort()
    if number == 5:
        time.sleep(3600)
    if number == 6:
        raise Refused(Reason.NOT_MONOCHROME, "planted")
    return number * number


def fail(_):
    raise ValueError("a mistake in our own code")


def give_back_what_does_not_pickle(_):
    return lambda: None


def process_id(_):
    return os.getpid()


def test_an_abort_and_a_hang_cost_one_item_each_and_order_is_kept():
    with Sandbox(workers=2, timeout_s=1.0) as sandbox:
        results = list(sandbox.map(square_unless_hostile, range(10)))
    assert [item for item, _ in results] == list(range(10))
    refused = {item: result.reason for item, result in results if isinstance(result, Refused)}
    assert refused == {3: Reason.DECODER_ABORTED, 5: Reason.DECODE_TIMEOUT, 6: Reason.NOT_MONOCHROME}
    assert [result for item, result in results if item not in refused] == [0, 1, 4, 16, 49, 64, 81]


def test_no_process_is_left_behind():
    before = set(multiprocessing.active_children())
    with Sandbox(workers=2) as sandbox:
        pid = sandbox.call(process_id, None)
        assert pid != os.getpid()
    assert set(multiprocessing.active_children()) == before
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_aborted_worker_is_replaced_for_the_next_call():
    with Sandbox(workers=1) as sandbox:
        first = sandbox.call(process_id, None)
        with pytest.raises(Refused, match="decoder_aborted"):
            sandbox.call(square_unless_hostile, 3)
        assert sandbox.call(process_id, None) != first


def test_a_mistake_of_our_own_is_raised_and_not_taken_for_a_refusal():
    with Sandbox(workers=1) as sandbox:
        with pytest.raises(ValueError, match="our own code"):
            sandbox.call(fail, None)
        with pytest.raises(RuntimeError, match="does not pickle"):
            sandbox.call(give_back_what_does_not_pickle, None)
        assert sandbox.call(square_unless_hostile, 2) == 4


def test_map_reads_only_a_little_ahead():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield 0

    with Sandbox(workers=1) as sandbox:
        results = sandbox.map(square_unless_hostile, items())
        next(results)
        assert len(taken) < 10
        results.close()


def page_faults_of_another_image(_):
    """Of a second round of memory such as an image needs: as read, decoded and written."""
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [b"\1" * (8 * 2**20 + number) for number in range(3)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told so")
def test_memory_of_an_image_is_used_again_for_the_next():
    with Sandbox(workers=1) as sandbox:
        assert sandbox.call(page_faults_of_another_image, None) < 100  # of 6,144 pages
