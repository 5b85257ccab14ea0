"""Checks of a job's outputs before anything is written: their names and their destination.

No two shards may have the same name, and no shard may have a name that the job needs itself. The destination may not be
the source or lie inside it, and one ordinary Zarr is written only to an unused folder.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from shardedstore.errors import ChainError, DestinationError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.ledger import FOLDER
from shardedstore.jobs.manifest import read_manifest
from shardedstore.jobs.shards import Plan, Run, target_of
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, open_folder
from shardedstore.storage.options import Options
from shardedstore.storage.urls import BESIDE, is_within, join_url, real_url
from shardedstore.stores.locations import Config, Place, url_of
from shardedstore.transforms.base.sink import Sink
from shardedstore.zarr.grid import Blocks, parse_block
from shardedstore.zarr.refusal import REFUSALS

CONSOLIDATED = "__consolidated__.zarr"

_INDEX = "0123456789/"  # the characters of a block's index


class Template(NamedTuple):
    """The names of an array's blocks.

    Attributes
    ----------
    label : str
        The name of the array in messages.
    before, after : str
        The parts of the name before and after the index.
    blocks : Blocks
        The division of the array.
    """

    label: str
    before: str
    after: str
    blocks: Blocks

    def matches(self, name: str) -> bool:
        """Tell whether one of the blocks has this name."""
        pattern = f"{re.escape(self.before)}([0-9]+(?:/[0-9]+)*){re.escape(self.after)}"
        found = re.fullmatch(pattern, name)
        return found is not None and self.blocks.within(parse_block(found[1]))

    def may_meet(self, other: Template) -> bool:
        """Tell whether a block of each template could have the same name.

        This is possible if one text before the index begins with the other, and one text after it ends with the other.
        """
        first, second = sorted([self.before, other.before], key=len)
        last, longer = sorted([self.after, other.after], key=len)
        return second.startswith(first) and longer.endswith(last)


def check_names(plan: Plan, sink: Sink) -> None:
    """Check that no two shards have the same output name.

    Templates are compared only with names that are equal except for an index. This keeps jobs of ten thousand arrays fast.

    Raises
    ------
    ChainError
        If two names are equal, if a name is a folder of other shards, or if the job needs the name itself.
    """
    literals: dict[str, str] = {}
    templates: dict[tuple[str, str], list[Template]] = defaultdict(list)
    for run in plan.runs:
        label = run.path if run.mounted is None else "(base)"
        name = target_of(sink, run)
        if run.blocks is None or "{block}" not in name:
            for literal, shard in _literals(run, name, label):
                _check_literal(literal, shard)
                if literal in literals:
                    _refuse(literals[literal], shard, literal)
                literals[literal] = shard
            continue
        before, _, after = name.partition("{block}")
        _check_apart(name, label)
        template = Template(label, before, after, run.blocks)
        same = templates[before.rstrip(_INDEX), after.lstrip(_INDEX)]
        for other in same:
            if template.may_meet(other):
                _refuse(other.label, label, name)
        same.append(template)
    for name, label in literals.items():
        for run_of_index in re.finditer(f"[{_INDEX}]+", name):
            for template in templates.get((name[: run_of_index.start()], name[run_of_index.end() :]), ()):
                if template.matches(name):
                    _refuse(template.label, label, name)
    folders = {name[: slash.start()] for name in _starts(literals, templates) for slash in re.finditer("/", name)}
    for name, label in literals.items():
        if name in folders:
            raise ChainError(
                f"shard {label!r} would be named {name!r}, which is a folder of other shards: end names alike"
            )


def _literals(run: Run, name: str, label: str) -> Iterator[tuple[str, str]]:
    """Yield the output names of a run's shards, each with the name of the shard in messages."""
    if "{block}" not in name:
        if run.division is not None and run.division.count > 1:
            what = f"all {run.division.count} {'blocks' if run.members is None else 'members'} of {label!r}"
            raise ChainError(f"{what} would be named {name!r}: put {{block}} into the name")
        yield name, label
        return
    assert run.members is not None
    for shard in run.shards():
        yield name.replace("{block}", shard.block_name), shard.name


def _starts(literals: Iterable[str], templates: Mapping[Any, list[Template]]) -> Iterator[str]:
    yield from literals
    for same in templates.values():
        for template in same:
            yield template.before


def _check_literal(name: str, label: str) -> None:
    if not name:
        raise ChainError(f"shard {label!r} would be named '', as it has no index: put {{path}} into the name")
    _check_apart(name, label)


MOST_BYTES = 255  # longest file name in bytes on nearly all disks


def check_lengths(plan: Plan, file_of: Callable[[Run], str | None]) -> None:
    """Check that the file names are not too long for a local disk.

    Parameters
    ----------
    plan : Plan
        The shards.
    file_of : callable
        Returns the name of the files of a run; None if they have no names of their own.

    Raises
    ------
    ChainError
        If a name has more than `MOST_BYTES` bytes.
    """
    for run in plan.runs:
        longest = max((file_of(run) or "").split("/"), key=lambda part: len(part.encode()))
        if len(longest.encode()) > MOST_BYTES:
            raise ChainError(
                f"shard {None if run.mounted is not None else run.path!r} would be written to a file whose name has "
                f"{len(longest.encode())} bytes, where a disk takes {MOST_BYTES}: do not make it a shard, or write to an object store"
            )


def _check_apart(name: str, label: str) -> None:
    """Check that a name is not one that the job needs itself, and does not lie in one."""
    if name.partition("/")[0] in (FILE_NAME, FOLDER, CONSOLIDATED, *REFUSALS):
        raise ChainError(
            f"shard {label!r} would be named {name!r}, which the job needs itself: choose another name, or leave {label!r} out"
        )


def _refuse(one: str, other: str, name: str) -> None:
    raise ChainError(
        f"shards {one!r} and {other!r} would both be named {name!r}: put {{path}} and {{block}} into the name, apart"
    )


def check_apart(folder: str, config: Config) -> None:
    """Check that the destination is not a source and does not lie inside one.

    Raises
    ------
    DestinationError
        If it does.
    """
    real = real_url(folder)
    for template in _of_members(config):
        if next(_inside(real, template), None) is not None:
            raise DestinationError(
                f"the destination {folder!r} is, or is inside, a folder that the source {template!r} names: name a folder outside of it"
            )
    urls = {url for _, location in config.locations() if (url := url_of(location)) and "{name}" not in url}
    for url in sorted(urls):
        source = real_url(url.partition("{block}")[0].rstrip("/"))
        if is_within(real, source) and not os.path.isfile(url.replace("{block}", "0")):
            raise DestinationError(
                f"the destination {folder!r} is, or is inside, the source {url!r}: name a folder outside of it"
            )


def check_outputs(folder: str, plan: Plan, sink: Sink) -> None:
    """Check that no output lies in a source that is inside the destination.

    Raises
    ------
    DestinationError
        If one does.
    """
    sources = _directories(plan.config)
    for run in plan.runs:
        name = target_of(sink, run)
        place = real_url(join_url(folder, name.partition("{block}")[0] + "0"))
        inside = any(place[: slash.start()] in sources for slash in re.finditer("/", place))
        if inside or any(name for url in _of_members(plan.config) for name in _inside(place, url)):
            raise DestinationError(
                f"{name!r} of the destination {folder!r} lies inside the source: name another folder"
            )


def check_new_zarr(url: str, plan: Plan, options: Options) -> None:
    """Check that one ordinary Zarr can be written to a destination.

    Raises
    ------
    DestinationError
        If a source lies inside the destination, or if it holds files that no such job wrote.
    """
    real = real_url(url)
    for source in sorted(_directories(plan.config) | {real_url(folder_of(url)) for url in _of_members(plan.config)}):
        if is_within(source, real):
            raise DestinationError(f"the source {source!r} lies inside the destination {url!r}: name another folder")
    check_unused(url, options)


def check_unused(url: str, options: Options) -> None:
    """Check that the destination of one ordinary Zarr holds no other files.

    Raises
    ------
    DestinationError
        If it holds files that no such job wrote, or can't be read.
    """
    try:
        if read_manifest(open_folder(url + BESIDE, options)) is None and open_folder(url, options).names():
            raise DestinationError(
                f"the destination {url!r} holds files already, and one ordinary Zarr can't stand beside them: name "
                "another, or remove them first"
            )
    except STORAGE_ERRORS as error:
        raise DestinationError(f"the destination {url!r} can't be used: {explain(error)}") from error


def _of_members(config: Config) -> set[str]:
    """Return the folder URLs with a ``{name}`` field, which stands for many members."""
    places = {location.origin for _, location in config.locations()}
    return {place.url for place in places if isinstance(place, Place) and not place.is_file and "{name}" in place.url}


def folder_of(url: str) -> str:
    """Return the common folder of all URLs that a template stands for.

    >>> folder_of("/data/cells/x{name}.zarr")
    '/data/cells'
    """
    return url.partition("{")[0].rpartition("/")[0]


def _inside(place: str, url: str) -> Iterator[str]:
    """Yield the folders, among a path and its parents, that match a URL with a ``{name}`` field.

    >>> list(_inside("/data/a.zarr/out", "/data/{name}.zarr")), list(_inside("/data/out", "/data/{name}.zarr"))
    (['/data/a.zarr'], [])
    """
    start = f"{real_url(folder_of(url))}/"
    rest = url[len(folder_of(url)) + 1 :]
    pattern = re.escape(start) + ".+".join(re.escape(part) for part in re.split(r"\{(?:name|block)\}", rest))
    for end in [*(slash.start() for slash in re.finditer("/", place)), len(place)]:
        is_as_deep = place[:end].count("/") == start.count("/") + rest.count("/")
        if is_as_deep and re.fullmatch(pattern, place[:end]):
            yield place[:end]


def _directories(config: Config) -> set[str]:
    """Return the folders that hold a config's sources."""
    places = {location.origin for _, location in config.locations()}
    urls = {
        place.url for place in places if isinstance(place, Place) and not place.is_file and "{name}" not in place.url
    }
    return {real_url(url.partition("{block}")[0]) for url in urls}
