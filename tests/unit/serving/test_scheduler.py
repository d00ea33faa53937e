import asyncio
import threading

import pytest

from hounsfield.serving.scheduler import Scheduler
from hounsfield.serving.wire import Draining, Overloaded


class Gate:
    """Computes a batch as `item * 10` once it is let through; remembers the batches in order."""

    def __init__(self):
        self.batches, self.entered, self.open = [], threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, items):
        self.batches.append(list(items))
        self.entered.release()
        assert self.open.acquire(timeout=10)
        return [item * 10 for item in items]

    def let_through(self, batches):
        for _ in range(batches):
            self.open.release()

    async def wait_until_entered(self):
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


def asks(scheduler, *items, instances=1):
    return [asyncio.ensure_future(scheduler.submit(item, instances)) for item in items]


async def begun(*tasks):
    """Let `tasks` run until they wait."""
    for _ in tasks:
        await asyncio.sleep(0)


@pytest.fixture
def gate():
    return Gate()


def test_requests_are_computed_one_by_one_in_the_order_they_came(gate):
    async def run():
        with Scheduler(gate, threads=1, max_waiting=10) as scheduler:
            tasks = asks(scheduler, 1, 2, 3, 4)
            gate.let_through(4)
            return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [10, 20, 30, 40]
    assert gate.batches == [[1], [2], [3], [4]]


def test_a_batch_is_what_waits_and_no_more_than_fits(gate):
    async def run():
        with Scheduler(gate, threads=1, max_waiting=100, max_batch=4) as scheduler:
            first = asks(scheduler, 1)
            await begun(*first)
            await gate.wait_until_entered()  # it waited for nobody
            rest = [*asks(scheduler, 2, 3), *asks(scheduler, 4, instances=3), *asks(scheduler, 5)]
            await begun(*rest)
            assert scheduler.waiting == 6
            gate.let_through(3)
            await asyncio.gather(*first, *rest)
            assert scheduler.waiting == 0

    asyncio.run(run())
    # 2 and 3 leave room for two instances, and 4 has three; nobody overtakes it.
    assert gate.batches == [[1], [2, 3], [4, 5]]


def test_a_request_larger_than_a_batch_is_computed_alone(gate):
    async def run():
        with Scheduler(gate, threads=1, max_waiting=100, max_batch=4) as scheduler:
            gate.let_through(2)
            return await asyncio.gather(*asks(scheduler, 1, instances=9), *asks(scheduler, 2))

    assert asyncio.run(run()) == [10, 20]


def test_beyond_the_bound_a_request_is_turned_away_at_once(gate):
    async def run():
        with Scheduler(gate, threads=1, max_waiting=2) as scheduler:
            running = asks(scheduler, 1)
            await begun(*running)
            await gate.wait_until_entered()
            waiting = asks(scheduler, 2, 3)
            await begun(*waiting)
            with pytest.raises(Overloaded, match="2 instances wait already, and the limit is 2") as shed:
                await scheduler.submit(4)
            assert (shed.value.status, shed.value.retry_after_s) == (429, 1.0)
            gate.let_through(4)
            await asyncio.gather(*running, *waiting)
            assert await scheduler.submit(5) == 50

    asyncio.run(run())
    assert [4] not in gate.batches


def test_the_time_to_ask_again_is_what_the_queue_takes():
    with Scheduler(lambda items: items, threads=2, max_waiting=10) as scheduler:
        scheduler._waiting, scheduler._seconds_an_instance = 30, 0.5
        assert scheduler._seconds_until_empty() == 7.5  # 30 x 0.5 s over 2 threads
        scheduler._waiting = 0


def test_idle_threads_are_not_a_queue(gate):
    async def run():
        with Scheduler(gate, threads=4, max_waiting=1) as scheduler:
            while scheduler._idle < 4:
                await asyncio.sleep(0.001)
            gate.let_through(4)
            return await asyncio.gather(*asks(scheduler, 1, 2, 3, 4))

    assert asyncio.run(run()) == [10, 20, 30, 40]


def test_a_request_whose_client_went_away_while_it_waited_is_never_computed(gate):
    async def run():
        with Scheduler(gate, threads=1, max_waiting=10) as scheduler:
            first, gone, last = asks(scheduler, 1, 2, 3)
            await begun(first, gone, last)
            await gate.wait_until_entered()
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            assert scheduler.waiting == 1
            gate.let_through(2)
            assert await asyncio.gather(first, last) == [10, 30]

    asyncio.run(run())
    assert gate.batches == [[1], [3]]


def test_a_request_whose_client_went_away_while_it_was_computed_harms_nobody(gate):
    async def run():
        with Scheduler(gate, threads=1, max_waiting=10) as scheduler:
            (gone,) = asks(scheduler, 1)
            await begun(gone)
            await gate.wait_until_entered()
            gone.cancel()
            gate.let_through(2)
            assert await scheduler.submit(2) == 20
            assert gone.cancelled()

    asyncio.run(run())


def test_closing_computes_what_waits_and_refuses_what_comes(gate):
    async def run():
        scheduler = Scheduler(gate, threads=1, max_waiting=10)
        tasks = asks(scheduler, 1, 2)
        await begun(*tasks)
        closing = asyncio.create_task(asyncio.to_thread(scheduler.close))
        while not scheduler._is_closed:
            await asyncio.sleep(0.001)
        with pytest.raises(Draining) as refused:
            await scheduler.submit(3)
        assert refused.value.status == 503
        gate.let_through(2)
        await closing
        assert await asyncio.gather(*tasks) == [10, 20]

    asyncio.run(run())
    assert not [each for each in threading.enumerate() if each.name.startswith("compute-")]


def test_an_error_is_its_own_requests_and_the_thread_lives_on():
    def compute(items):
        if items == [3]:
            raise RuntimeError("a mistake of our own")
        return [ValueError("not this one") if item == 2 else item for item in items]

    async def run():
        with Scheduler(compute, threads=1, max_waiting=10, max_batch=1) as scheduler:
            return await asyncio.gather(*asks(scheduler, 1, 2, 3, 4), return_exceptions=True)

    first, second, third, last = asyncio.run(run())
    assert (first, last) == (1, 4)
    assert isinstance(second, ValueError)
    assert isinstance(third, RuntimeError)
