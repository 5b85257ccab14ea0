"""The arrays of a sharded store that are divided as they are written: what is known of them, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from shardedstore.components.http_index import named_by
from shardedstore.components.kinds import Mount
from shardedstore.metadata import ArrayMeta, parse_json, parse_node
from shardedstore.mounts import Mounts, is_below, join
from shardedstore.writing.arrayshards import Rule, check_apart
from shardedstore.writing.blockdocuments import Documents, Placed

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
        self.known = {path: Placed(path) for path in rules}
        self._paths = Mounts(rules)

    def placed(self, path: str, documents: Documents) -> Placed:
        """Return what an array is with other documents.

        Raises
        ------
        UsageError, PartitionError
            Where it can't be divided by its rule.
        """
        meta, rule = parse_node(documents, path), self.rules[path]
        if not isinstance(meta, ArrayMeta):
            return Placed(path, documents)
        if meta.zarr_format == 2 and isinstance(rule.shape, Mapping) and meta.dimension_names is None:
            return Placed(path, documents, meta, is_unnamed=True)  # names are attributes there, which are written apart
        mount = rule.mount(meta, self._mounted.get(path))
        if mount is not None:
            check_apart({**self._mounted, path: mount})
        return Placed(path, documents, meta, mount)

    def take(self, placed: Placed) -> None:
        """Go by what an array is now."""
        self.known[placed.path] = placed
        if placed.mount is None:
            self._mounted.pop(placed.path, None)
        else:
            self._mounted[placed.path] = placed.mount
        self._changed(placed.path, placed.mount)

    def forget(self, path: str) -> None:
        """Take an array as not there any more."""
        self.take(Placed(path))

    def absent(self) -> Iterator[str]:
        """Yield the paths at which there is nothing yet."""
        return (path for path, placed in self.known.items() if not placed.documents)

    def holder(self, key: str) -> str | None:
        """Return the array that a key lies in, but for its documents; None also where there is a group instead."""
        found = self._paths.resolve(key)
        if found is None or not found[1] or key in self.keys:
            return None
        known = self.known[found[0]]
        return None if known.array is None and known.documents else found[0]

    def differing(self, key: str, data: bytes) -> Iterator[str]:
        """Yield the arrays that consolidated metadata describes otherwise than they are known."""
        group, _, name = key.rpartition("/")
        described = named_by(name, data)
        for path in self.rules if described.is_whole else ():
            if is_below(path, group):
                inside, known = path.removeprefix(f"{group}/"), self.known[path].documents
                if any(
                    _content(described.documents.get(join(inside, own))) != _content(known.get(own)) for own in NAMES
                ):
                    yield path

    def near(self, prefix: str) -> Iterator[str]:
        """Yield the paths of those whose keys a prefix may begin."""
        for path in self.rules:
            start = f"{path}/" if path else ""
            if start.startswith(prefix) or prefix.startswith(start):
                yield path

    def below(self, path: str) -> Iterator[str]:
        """Yield the paths of those at or below a path."""
        return (own for own in self.rules if own == path or is_below(own, path))


def _content(document: bytes | None) -> object:
    return None if document is None else parse_json(document, "", "")
