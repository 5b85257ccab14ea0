"""The arrays of a sharded store that are divided as they are written: what is known of them, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from shardedstore.arrayshards import Rule
from shardedstore.blockdocuments import Documents, Placed
from shardedstore.kinds import Mount
from shardedstore.metadata import ArrayMeta, parse_json, parse_node
from shardedstore.mounts import Mounts, is_below, join
from shardedstore.named import named_by

NAMES = ("zarr.json", ".zarray", ".zattrs")


class DividedArrays:
    """What the documents of some arrays say, and what is mounted for them by their rules.

    Parameters
    ----------
    rules : mapping of str to Rule
        By path.
    mounted : dict of str to Mount
        What is mounted in the store, which is kept up to date.
    changed : callable
        Is called with a path and what is mounted there from then on.
    """

    def __init__(
        self, rules: Mapping[str, Rule], mounted: dict[str, Mount], changed: Callable[[str, Mount | None], None]
    ) -> None:
        self.rules, self._mounted, self._changed = rules, mounted, changed
        self.keys = {join(path, name): (path, name) for path in rules for name in NAMES}
        self.known: dict[str, Documents] = {path: {} for path in rules}
        self._unnamed: set[str] = set()
        self._paths = Mounts(rules)

    def now(self, path: str) -> Placed:
        """Return what is known of an array."""
        documents = self.known[path]
        return Placed(path, documents, _array(path, documents), self._mounted.get(path))

    def placed(self, path: str, name: str, data: bytes | None) -> Placed:
        """Return what an array will be with another document, or without it.

        Raises
        ------
        UsageError, PartitionError
            Where it can't be divided by its rule.
        """
        kept = {own: document for own, document in self.known[path].items() if own != name}
        if data is not None:
            kept[name] = data
        array, mount, rule = _array(path, kept), None, self.rules[path]
        if array is not None and not _lacks_names(array, rule):
            mount = rule.mount(array, self._mounted.get(path))
        return Placed(path, kept, array, mount)

    def take(self, path: str, name: str, data: bytes | None) -> Placed:
        """Go by another document of an array from now on."""
        placed = self.placed(path, name, data)
        self.known[path] = placed.documents
        if placed.mount is None:
            self._mounted.pop(path, None)
        else:
            self._mounted[path] = placed.mount
        self._unnamed.discard(path)
        if placed.array is not None and _lacks_names(placed.array, self.rules[path]):
            self._unnamed.add(path)
        self._changed(path, placed.mount)
        return placed

    def saw(self, path: str, name: str, data: bytes | None) -> None:
        """Go by a document that was read: another process may have written it."""
        if self.known[path].get(name) != data:
            self.take(path, name, data)

    def forget(self, path: str) -> None:
        """Take an array as not there any more."""
        for name in list(self.known[path]):
            self.take(path, name, None)

    def holder(self, key: str) -> str | None:
        """Return the array that a key lies in, but for its documents."""
        found = self._paths.resolve(key)
        return found[0] if found is not None and found[1] and key not in self.keys else None

    def differing(self, key: str, data: bytes) -> Iterator[str]:
        """Yield the arrays that consolidated metadata describes otherwise than they are known."""
        group, _, name = key.rpartition("/")
        described = named_by(name, data)
        for path in self.rules if described.is_whole else ():
            if is_below(path, group):
                inside = path.removeprefix(f"{group}/")
                documents = {own: described.documents.get(join(inside, own)) for own in NAMES}
                known = {own: self.known[path].get(own) for own in NAMES}
                if any(_content(documents[own]) != _content(known[own]) for own in NAMES):
                    yield path

    def below(self, path: str) -> Iterator[str]:
        """Yield the paths of those at or below a path."""
        return (own for own in self.rules if own == path or is_below(own, path))

    def unnamed(self, key: str) -> str | None:
        """Return the array that a key is a chunk of, and that can't be divided before its dimensions have names."""
        return next((path for path in self._unnamed if is_below(key, path)), None)


def _content(document: bytes | None) -> object:
    return None if document is None else parse_json(document, "", "")


def _array(path: str, documents: Documents) -> ArrayMeta | None:
    meta = parse_node(documents, path)
    return meta if isinstance(meta, ArrayMeta) else None


def _lacks_names(array: ArrayMeta, rule: Rule) -> bool:
    """Tell whether dimensions have no names yet: in Zarr v2 these are attributes, which are written apart."""
    return array.zarr_format == 2 and isinstance(rule.shape, Mapping) and array.dimension_names is None
