"""The time that a shard spends in its stages: the source, the steps, and the sink."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from shardedstore.codecs.codec_clock import CodecClock, using_clock
from shardedstore.transforms.base.shard import Entries


class Stages:
    """Stopwatch of one attempt at a shard.

    The stages pull entries from one another, so the time inside the iterators is the time of the stages before the sink.

    Attributes
    ----------
    read, transform, write : float
        Seconds in the source, in the steps, and in the sink, when the attempt has ended.
    decode, encode : float
        The parts of `transform` in codecs. Several threads at work count as one.
    source_entries, source_nbytes : int
        The number of entries and of stored bytes that were read.
    """

    def __init__(self) -> None:
        self.read = self.transform = self.write = self.decode = self.encode = 0.0
        self.source_entries = self.source_nbytes = 0
        self._ready = 0.0  # seconds until the sink got its entries: reading and steps together

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure an attempt from its start to its end."""
        self.read = self._ready = 0.0
        self.source_entries = self.source_nbytes = 0
        clock, begun = CodecClock(), time.perf_counter()
        try:
            with using_clock(clock):
                yield
        finally:
            before_sink = max(self._ready, self.read)
            self.transform = before_sink - self.read
            self.write = max(0.0, time.perf_counter() - begun - before_sink)
            in_codecs = clock.decode + clock.encode
            part = min(1.0, self.transform / in_codecs) if in_codecs else 0.0
            self.decode, self.encode = part * clock.decode, part * clock.encode

    def reading(self, entries: Entries) -> Entries:
        """Yield the entries of the source, and measure the time until each."""
        clock = time.perf_counter
        begun = clock()
        for entry in entries:
            self.read += clock() - begun
            self.source_entries += 1
            self.source_nbytes += len(entry.data)
            yield entry
            begun = clock()
        self.read += clock() - begun

    def ready(self, entries: Entries) -> Entries:
        """Yield the entries after the steps, and measure the time until each."""
        clock = time.perf_counter
        begun = clock()
        for entry in entries:
            self._ready += clock() - begun
            yield entry
            begun = clock()
        self._ready += clock() - begun
