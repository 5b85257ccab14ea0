"""Reads of one object that share requests, of a source that counts them."""

import asyncio
import gc

import pytest

from shardedstore.storage import gathered
from shardedstore.storage.gathered import AHEAD, MOST_GAP, MOST_TOGETHER, GatheredReads, Kept

SIZE = 64 << 20
PATTERN = bytes(range(251))


def content(start, stop):
    first = start % len(PATTERN)
    return (PATTERN * ((stop - start) // len(PATTERN) + 2))[first : first + stop - start]


class Source:
    """An object whose bytes follow a pattern; it records the ranges of requests."""

    def __init__(self, size=SIZE):
        self.size, self.asked, self.error = size, [], None

    def tail(self, n):
        self.asked.append("tail")
        return content(max(0, self.size - n), self.size), self.size

    def read(self, start, stop):
        self.asked.append((start, stop))
        return content(start, min(stop, self.size))

    async def aread(self, start, stop):
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.read(start, stop)


def gather(reads, *spans):
    async def all_of():
        return await asyncio.gather(*(reads.aread(*span) for span in spans), return_exceptions=True)

    return asyncio.run(all_of())


def right(found, spans):
    return [bytes(data) for data in found] == [content(*span) for span in spans]


def opened(size=SIZE):
    source = Source(size)
    reads = GatheredReads(source)
    reads.tail(100)
    source.asked.clear()
    return source, reads


CASES = {
    "neighbours": ([(0, 10), (10, 20), (20, 30)], [(0, 60)]),
    "in any order": ([(20, 30), (0, 10), (10, 20)], [(0, 60)]),
    "over a small gap": ([(0, 10), (10 + MOST_GAP, 20 + MOST_GAP)], [(0, 2 * (20 + MOST_GAP))]),
    "over a large gap": ([(0, 10), (11 + MOST_GAP, 20 + MOST_GAP)], [(0, 10), (11 + MOST_GAP, 20 + MOST_GAP)]),
    "one alone": ([(5, 10)], [(5, 10)]),
    "equal ones": ([(5, 10), (5, 10)], [(5, 15)]),
    "large ones are alone": ([(0, 2 << 20), (2 << 20, 4 << 20)], [(0, 2 << 20), (2 << 20, 4 << 20)]),
    "up to a limit": (
        [(i << 20, (i + 1) << 20) for i in range(9)],
        [(0, MOST_TOGETHER + AHEAD), (8 << 20, 9 << 20)],
    ),
}


@pytest.mark.parametrize(("spans", "requests"), CASES.values(), ids=CASES)
def test_reads_that_wait_together_are_one_request(spans, requests):
    source, reads = opened()
    assert right(gather(reads, *spans), spans)
    assert sorted(source.asked) == requests


def test_bytes_that_were_read_ahead_need_no_request():
    source, reads = opened()
    gather(reads, (0, 1000), (1000, 2000))
    assert right(
        [*gather(reads, (2000, 3000), (3000, 4000)), reads.read(2500, 2600)], [(2000, 3000), (3000, 4000), (2500, 2600)]
    )
    assert source.asked == [(0, 4000)]
    assert right(gather(reads, (3999, 4001)), [(3999, 4001)])
    assert len(source.asked) == 2


def test_nothing_is_read_behind_the_end():
    source, reads = opened(2 * AHEAD)
    spans = [(AHEAD - 2000, AHEAD - 1000), (AHEAD - 1000, AHEAD + 1)]
    assert right(gather(reads, *spans), spans)
    assert all(stop <= source.size for _, stop in source.asked)


def test_the_end_is_kept():
    source, reads = opened()
    spans = [(SIZE - AHEAD, SIZE - 10), (SIZE - 10, SIZE)]
    assert right(gather(reads, *spans), spans)
    assert source.asked == []
    assert bytes(reads.tail(10)[0]) == content(SIZE - 10, SIZE)


def test_an_error_reaches_each_reader_and_the_next_read_is_a_new_one():
    source, reads = opened()
    source.error = OSError("away")
    assert [str(error) for error in gather(reads, (0, 10), (10, 20))] == ["away", "away"]
    source.error = None
    assert right(gather(reads, (0, 10), (10, 20)), [(0, 10), (10, 20)])


def test_a_cancelled_reader_does_not_stop_others():
    _, reads = opened()

    async def one_of_two():
        first, second = (asyncio.ensure_future(reads.aread(*span)) for span in ((0, 10), (10, 20)))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert bytes(asyncio.run(one_of_two())) == content(10, 20)


def test_event_loops_do_not_wait_for_one_another(monkeypatch):
    source, reads = opened()

    async def left():
        waiting = asyncio.ensure_future(reads.aread(0, 10))
        await asyncio.sleep(0)
        return waiting.done()

    with monkeypatch.context() as patched:
        patched.setattr(gathered, "WINDOW", 60)
        assert not asyncio.run(left())  # the loop ends with a reader that waits
    assert right(gather(reads, (20, 30), (30, 40)), [(20, 30), (30, 40)])
    assert source.asked == [(20, 60)]


def test_kept_bytes_are_limited():
    kept = Kept(most=100)
    for owner in range(9):
        kept.put((owner, "end"), 0, bytes(40))
    assert [owner for owner in range(9) if kept.find(owner, 0, 40) is not None] == [7, 8]
    kept.put((8, "end"), 0, bytes(101))  # larger than the limit
    assert kept.find(8, 0, 10) is None


def test_kept_bytes_go_with_their_object():
    source, reads = opened()
    other = GatheredReads(source)
    other.tail(10)
    del other
    gc.collect()
    assert right([reads.read(SIZE - 5, SIZE)], [(SIZE - 5, SIZE)])
    assert source.asked == ["tail"]
