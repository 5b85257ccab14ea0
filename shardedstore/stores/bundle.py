"""Several members of a collection as one store, with a group above them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

from obstore.exceptions import BaseError
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.errors import CorruptError
from shardedstore.stores.entries import Choice, Entry, entries_of, of_format, read_entries
from shardedstore.stores.group import GroupStore
from shardedstore.stores.members import Members
from shardedstore.stores.reader import Tag, listing, tags_of
from shardedstore.zarr.paths import parents
from shardedstore.zarr.readonly import ReadOnlyStore


class Bundle(ReadOnlyStore):
    """Members below a group without attributes; together they are one Zarr.

    A member is opened at its first use.

    Parameters
    ----------
    names : tuple of str
        The names of the members, sorted.
    opener : callable
        Opens a member, given its name.
    zarr_format : int
        The Zarr format of the group and of all members.
    """

    def __init__(self, names: tuple[str, ...], opener: Callable[[str], Store], zarr_format: int) -> None:
        super().__init__()
        self.members, self.zarr_format = Members(names), zarr_format
        above = {parent: None for name in names for parent in parents(name) if parent}
        self.top = GroupStore(zarr_format, {}, above)
        self._opener = opener
        self._last: tuple[str, Store] | None = None

    def member(self, name: str) -> Store:
        """Open a member; the last opened member stays open."""
        last = self._last
        if last is None or last[0] != name:
            last = self._last = name, self._opener(name)
        return last[1]

    def _route(self, key: str) -> tuple[Store, str]:
        found = self.members.find(key)
        if found is None or not found[1]:
            return self.top, key
        return self.member(self.members.names[found[0]]), found[1]

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        # docstring inherited
        store, rest = self._route(key)
        return await store.get(rest, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        # docstring inherited
        store, rest = self._route(key)
        return await store.exists(rest)

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self.top.list():
            yield key
        for name in self.members.names:
            async for key in self.member(name).list():
                yield f"{name}/{key}"

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        names = self.members.names
        return f"Bundle({names[0]!r} to {names[-1]!r})"


@entries_of.register
def _(bundle: Bundle, choice: Choice) -> Iterator[Entry]:
    """Read the group above the members, then each member in turn."""
    for key, data in bundle.top.documents.items():
        yield Entry(key, data)
    for name in bundle.members.names:
        try:
            entries = read_entries(bundle.member(name), consolidated=choice.consolidated)
            for entry in of_format(entries, bundle.zarr_format):
                yield entry._replace(key=f"{name}/{entry.key}")
        except CorruptError as error:
            raise CorruptError(f"the member {name!r}: {error}") from error
        except (OSError, BaseError) as error:
            error.add_note(f"the member {name!r}")
            raise


@tags_of.register
def _(bundle: Bundle) -> Iterator[Tag]:
    return ((name, 0, listing(bundle.member(name))) for name in bundle.members.names)
