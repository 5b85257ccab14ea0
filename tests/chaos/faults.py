"""All trials of a run: the faults, their functions and their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from chaos import clock, damage, disks, joining, killing, moving, pausing, slicing, storms
from chaos.place import Scene
from chaos.trial import Trial


class Planned(NamedTuple):
    """A planned trial: the fault's name in the table, the seed, which is the trial's name, and the function to run."""

    fault: str
    seed: str
    run: Callable[[Scene], Trial]


def kills(seed: int, runs: int) -> Iterator[Planned]:
    """Yield `runs` trials: each kind of process with each kind of destination, repeatedly."""
    for number in range(runs):
        who, turn = killing.WHO[number % len(killing.WHO)], number // len(killing.WHO)
        sink, in_cloud = killing.DESTINATIONS[turn % len(killing.DESTINATIONS)]
        name = f"{seed}/kill/{number}"
        yield Planned(
            f"`kill -9` of {who}", name, partial(killing.killed, seed=name, who=who, sink=sink, in_cloud=in_cloud)
        )


def pauses(seed: int, runs: int) -> Iterator[Planned]:
    """Yield `runs` trials of each kind."""
    for number in range(runs):
        sink, in_cloud = killing.DESTINATIONS[number % len(killing.DESTINATIONS)]
        for kind, fault, run in (
            ("pause", "a worker stands still, is given up, and wakes", pausing.paused),
            ("cut", "a worker is cut off from the scheduler, and goes on", pausing.cut_off),
        ):
            name = f"{seed}/{kind}/{number}"
            yield Planned(fault, name, partial(run, seed=name, sink=sink, in_cloud=in_cloud))
        name = f"{seed}/overtake/{number}"
        yield Planned(
            "a worker of an older job wakes when a new one has ended", name, partial(pausing.overtaken, seed=name)
        )


def disks_and_files(seed: int, runs: int) -> Iterator[Planned]:
    """Yield `runs` trials of each kind that can run on this machine."""
    for number in range(runs):
        sink = ("zips", "copy", "sharding")[number % 3]
        for kind, fault, run in (
            ("full", "the disk is full", disks.full),
            ("inodes", "the disk has no inodes left", disks.without_inodes),
            ("readonly", "the disk becomes read-only", disks.read_only),
        ):
            name = f"{seed}/{kind}/{number}"
            if disks.can_mount():
                yield Planned(fault, name, partial(run, seed=name, sink=sink))
        for kind in damage.KINDS:
            name = f"{seed}/{kind.split()[-1]}/{number}"
            yield Planned(f"a file of the source {kind}", name, partial(damage.damaged, seed=name, kind=kind))
        if clock.can_jump():
            name = f"{seed}/clock/{number}"
            yield Planned("the workers' clocks jump by days", name, partial(clock.jumping, seed=name, sink=sink))


def storms_of_s3(seed: int, runs: int) -> Iterator[Planned]:
    """Yield `runs` trials of each kind."""
    for number in range(runs):
        for kind, fault in enumerate((*storms.STORMS, storms.GONE)):
            name, sink = f"{seed}/storm/{number}-{kind}", ("zips", "copy", "sharding")[number % 3]
            yield Planned(fault, name, partial(storms.storm, seed=name, fault=fault, sink=sink))


def moves(seed: int, runs: int) -> Iterator[Planned]:
    """Yield `runs` trials, each with some kills, in turn on a local disk and in an object store."""
    for number in range(runs):
        sink, in_cloud = moving.DESTINATIONS[number % len(moving.DESTINATIONS)]
        on_cluster = number % 5 == 4
        who, where = "a worker or the client" if on_cluster else "the process", "S3" if in_cloud else "a local disk"
        name = f"{seed}/move/{number}"
        run = partial(moving.moved, seed=name, sink=sink, in_cloud=in_cloud, on_cluster=on_cluster)
        yield Planned(f"`kill -9` of {who} of a move, on {where}", name, run)


def slices(seed: int, runs: int) -> Iterator[Planned]:
    """Yield `runs` trials, in turn for each kind of destination."""
    for number in range(runs):
        sink, in_cloud = slicing.DESTINATIONS[number % len(slicing.DESTINATIONS)]
        name, where = f"{seed}/slice/{number}", "S3" if in_cloud else "a local disk"
        run = partial(slicing.sliced, seed=name, sink=sink, in_cloud=in_cloud)
        yield Planned(f"`kill -9` of slices that overlap and run twice, on {where}", name, run)


def joins(seed: int, runs: int) -> Iterator[Planned]:
    """Yield `runs` trials, in turn on a local disk and in an object store."""
    for number in range(runs):
        in_cloud = number % 2 == 1
        name, where = f"{seed}/join/{number}", "S3" if in_cloud else "a local disk"
        run = partial(joining.joined, seed=name, in_cloud=in_cloud)
        yield Planned(f"`kill -9` while one zip is joined, on {where}", name, run)


def all_faults(seed: int, runs: int) -> list[Planned]:
    """Return all trials: `runs` trials with killed processes, and all others in proportion."""
    few = -(-runs // 20)
    return [
        *kills(seed, runs),
        *moves(seed, -(-runs // 4)),
        *slices(seed, -(-runs // 4)),
        *joins(seed, -(-runs // 4)),
        *pauses(seed, few),
        *disks_and_files(seed, few),
        *storms_of_s3(seed, few),
    ]
