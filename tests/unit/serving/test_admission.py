import asyncio

import pytest

from hounsfield.serving.admission import Admission
from hounsfield.serving.wire import MAX_BODY_BYTES, Draining, Overloaded, RequestError


def run(scenario):
    return asyncio.run(scenario())


def test_bytes_count_while_the_request_is_inside_and_are_given_back():
    async def scenario():
        admission = Admission(max_bytes=100)
        with admission.enter() as first:
            first.take(60)
            with admission.enter() as second:
                second.take(40)
                assert (admission.inflight, admission.inflight_bytes) == (2, 100)
            assert (admission.inflight, admission.inflight_bytes) == (1, 60)
        assert (admission.inflight, admission.inflight_bytes) == (0, 0)

    run(scenario)


def test_a_body_that_does_not_fit_beside_the_others_is_refused_before_and_while_it_is_read():
    async def scenario():
        shed = []
        admission = Admission(max_bytes=100, on_shed=shed.append)
        with admission.enter() as first, admission.enter() as second:
            first.take(60)
            with pytest.raises(Overloaded) as declared:
                second.expect(41)
            second.expect(40)
            second.take(30)
            with pytest.raises(Overloaded):
                second.take(11)
            assert admission.inflight_bytes == 90
        assert declared.value.status == 429
        assert declared.value.retry_after_s > 0
        assert shed == ["bytes", "bytes"]
        assert admission.inflight_bytes == 0

    run(scenario)


def test_one_body_is_bounded_whatever_it_declared():
    async def scenario():
        admission = Admission(max_bytes=10 * MAX_BODY_BYTES)
        with admission.enter() as body:
            with pytest.raises(RequestError) as declared:
                body.expect(MAX_BODY_BYTES + 1)
            body.take(MAX_BODY_BYTES)
            with pytest.raises(RequestError) as read:
                body.take(1)
        assert (declared.value.status, read.value.status) == (413, 413)

    run(scenario)


def test_draining_lets_nobody_in_and_waits_for_those_inside():
    async def scenario():
        shed = []
        admission = Admission(on_shed=shed.append)
        with admission.enter():
            admission.drain()
            with pytest.raises(Draining) as refused, admission.enter():
                pass
            assert not await admission.emptied(0.01)
        assert await admission.emptied(0.01)
        assert refused.value.status == 503
        assert shed == ["draining"]

    run(scenario)
