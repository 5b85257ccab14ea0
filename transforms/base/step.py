"""The protocol of steps, which change a shard's stream of entries."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

from shardedstore.notices import Notice
from shardedstore.stores.hierarchy import Node
from shardedstore.transforms.base.shard import Entries, Shard


class Step(ABC):
    """A step changes a shard's stream of entries.

    Subclasses are frozen dataclasses in an importable module, so that they pickle and have a stable fingerprint.

    Attributes
    ----------
    version : str
        Part of the fingerprint. Increase it when the step's output changes.
    settled : tuple of str
        Texts of notices of earlier steps that this step makes unnecessary.
    needs_empty : bool
        Whether the step also gets blocks of sparse arrays without any chunk. Set it to False if the step never makes
        chunks for them.
    is_chunkwise : bool
        Whether the step changes each chunk for itself. A plan then estimates its output from a sample of chunks, and
        its memory from the size of a chunk, not of a shard.
    keeps_values : bool
        Whether the step changes only the codecs of arrays, and keeps their values, chunk grids and Zarr format, so that it can be part of
        a move (see `Move`). A move compares the values in any case.

    See Also
    --------
    step : Make a step from a generator function.
    ArrayStep : Base of steps that change arrays chunk by chunk.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Without(Step):
    ...     ending: str
    ...
    ...     def __call__(self, entries, shard):
    ...         return (entry for entry in entries if not entry.key.endswith(self.ending))
    >>> from shardedstore.abc import Entry
    >>> entries = [Entry("zarr.json", b"{}"), Entry("run.log", b"started")]
    >>> [entry.key for entry in Without(".log")(iter(entries), Shard("a"))]
    ['zarr.json']
    """

    version: ClassVar[str] = "1"
    settled: ClassVar[tuple[str, ...]] = ()
    needs_empty: ClassVar[bool] = True
    is_chunkwise: ClassVar[bool] = False
    keeps_values: ClassVar[bool] = False

    def check(self, nodes: Mapping[str, Node]) -> None:  # noqa: B027 (most steps accept every source)
        """Raise ChainError if the step can't be applied to a source with this metadata.

        Nothing has been written when it is called.

        Parameters
        ----------
        nodes : mapping of str to Node
            The groups and arrays of the source by path, as the previous steps change them.

        Raises
        ------
        ChainError
            If the step can't be applied.
        """

    def notices(self, nodes: Mapping[str, Node]) -> Iterable[Notice]:
        """Return warnings about a source, by its metadata, which the user sees before the job runs.

        Parameters
        ----------
        nodes : mapping of str to Node
            The groups and arrays of the source by path, as the previous steps change them.

        Returns
        -------
        iterable of Notice
            The warnings; none by default.
        """
        return ()

    def changed(self, nodes: Mapping[str, Node]) -> Mapping[str, Node]:
        """Return a source's metadata after this step, for the checks of the rest of the chain.

        Parameters
        ----------
        nodes : mapping of str to Node
            The groups and arrays of the source by path, as the previous steps change them.

        Returns
        -------
        mapping of str to Node
            The groups and arrays after this step; by default the same.
        """
        return nodes

    def bound(self, nodes: Mapping[str, Node]) -> Step:
        """Return this step with facts from the whole source's metadata that a shard's own entries lack.

        Parameters
        ----------
        nodes : mapping of str to Node
            The groups and arrays of the source by path, as the previous steps change them.

        Returns
        -------
        Step
            The step that runs in the workers; by default this one.
        """
        return self

    @abstractmethod
    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        """Yield the changed entries in their order, metadata first."""


@dataclasses.dataclass(frozen=True)
class FunctionStep(Step):
    """A step that calls a generator function; see `step`."""

    func: Callable[[Entries, Shard], Entries]
    name: str
    label: str

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        return self.func(entries, shard)


def step(func: Callable[[Entries, Shard], Entries], *, name: str = "", version: str = "") -> Step:
    """Make a step from a generator function ``(entries, shard) -> entries``.

    Parameters
    ----------
    func : callable
        The function. It must pickle, as it runs in the workers.
    name, version : str
        Identify this function, so that another process can resume the job. Increase the version when the output changes.
        Without a name and a version, another process starts again.

    Returns
    -------
    Step
        A step of a chain.

    Examples
    --------
    >>> def without_logs(entries, shard):
    ...     return (entry for entry in entries if not entry.key.endswith(".log"))
    >>> step(without_logs, name="without logs", version="1").label
    '1'
    """
    return FunctionStep(func, name, version)
