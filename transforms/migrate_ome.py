"""`MigrateOME`: migrate OME-Zarr 0.4 to 0.5."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec

from shardedstore.errors import ChainError
from shardedstore.notices import Notice, node_name
from shardedstore.stores.entries import Entry, array_folder
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.ome import attributes_of, levels_of, old_attributes, upgraded, why_not_upgraded
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.transforms.base.step import Step
from shardedstore.transforms.migrate_v3 import OME_STAYS
from shardedstore.zarr.metadata import ArrayMeta, GroupMeta, dump_json, parse_json, parse_node
from shardedstore.zarr.paths import join

NAME = "zarr.json"
Names = dict[str, tuple[str, ...]]  # names of an image's axes, by the path of each of its levels


@dataclass(frozen=True)
class MigrateOME(Step):
    """Migrate the metadata of OME-Zarr 0.4 to 0.5.

    OME-Zarr 0.5 needs Zarr v3: put `MigrateV3` before this step if the source is Zarr v2.

    The step moves the group attributes of 0.4 (``multiscales``, ``omero``, ``image-label``, ``labels``, ``plate``,
    ``well``, ``bioformats2raw.layout`` and ``series``) below ``ome``, and adds the version. It writes the names of the axes
    as ``dimension_names`` of each level. Other attributes and all chunks stay as they are.

    Examples
    --------
    >>> from shardedstore.transforms import MigrateV3, ToZip
    >>> chain = MigrateV3(), MigrateOME(), ToZip("out", name="{path}.ozx")
    >>> chain[:2]
    (MigrateV3(), MigrateOME())
    """

    needs_empty: ClassVar[bool] = False
    keeps_values: ClassVar[bool] = True
    is_chunkwise: ClassVar[bool] = True
    settled: ClassVar[tuple[str, ...]] = (OME_STAYS,)
    names: Names = field(default_factory=dict, init=False, compare=False, repr=False)

    def check(self, nodes: Mapping[str, Node]) -> None:
        # docstring inherited
        old = next((path for path, node in nodes.items() if node.meta.zarr_format != 3), None)
        if old is not None:
            raise ChainError(
                f"{node_name(old)} is Zarr v2, and OME-Zarr 0.5 is Zarr v3: put MigrateV3() (--v3) before MigrateOME"
            )
        groups = {path: found for path, node in nodes.items() if (found := _old(node, path))}
        if not groups:
            raise ChainError(
                "no group has attributes of OME-Zarr 0.4: leave MigrateOME (--step migrate-ome) out of the chain"
            )
        for path, found in groups.items():
            if (why := why_not_upgraded(found)) is not None:
                raise ChainError(f"{node_name(path)} is not valid OME-Zarr 0.4 ({why}): correct its metadata first")

    def notices(self, nodes: Mapping[str, Node]) -> Iterator[Notice]:
        # docstring inherited
        metas = {path: node.meta for path, node in nodes.items()}
        wrong = [path for path, names in _names(nodes).items() if not _fits(metas.get(path), names)]
        if wrong:
            yield Notice("these levels of images are not arrays with one dimension for each axis", tuple(wrong))

    def bound(self, nodes: Mapping[str, Node]) -> MigrateOME:
        # docstring inherited
        made = dataclasses.replace(self)
        made.names.update(_names(nodes))
        return made

    def changed(self, nodes: Mapping[str, Node]) -> dict[str, Node]:
        # docstring inherited
        names = _names(nodes)
        return {path: _changed(node, path, names) for path, node in nodes.items()}

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        # docstring inherited
        names, arrays = dict(self.names), dict[str, ArrayMeta]()
        for entry in entries:
            folder, _, name = entry.key.rpartition("/")
            if entry.coords is None and name == NAME:
                path, documents = join(shard.path, folder), {NAME: bytes(entry.data)}
                meta = parse_node(documents, path)
                assert meta is not None
                node = Node(meta, documents)
                names |= _names({path: node})
                made = _changed(node, path, names)
                array = made.meta if isinstance(made.meta, ArrayMeta) else None
                if array is not None and made is not node:
                    arrays[folder] = array
                yield Entry(entry.key, made.documents[NAME], array)
            elif arrays and entry.coords is not None and entry.array is not None:
                yield entry._replace(array=arrays.get(array_folder(entry), entry.array))
            else:
                yield entry


def _old(node: Node, path: str) -> dict[str, object]:
    return old_attributes(attributes_of(node, path), path) if isinstance(node.meta, GroupMeta) else {}


def _names(nodes: Mapping[str, Node]) -> Names:
    """Return the names of axes from the metadata of groups, by the paths of their levels."""
    found = ((path, _old(node, path)) for path, node in nodes.items())
    return {join(path, level): names for path, old in found for level, names in levels_of(old)}


def _fits(meta: ArrayMeta | GroupMeta | None, names: tuple[str, ...]) -> bool:
    return isinstance(meta, ArrayMeta) and len(meta.shape) == len(names)


def _changed(node: Node, path: str, names: Names) -> Node:
    if isinstance(node.meta, GroupMeta):
        if not _old(node, path):
            return node
        document = parse_json(node.documents[NAME], path, NAME)
        made = {**document, "attributes": upgraded(attributes_of(node, path), path)}
        return node._replace(documents={NAME: dump_json(made)})
    wanted = names.get(path)
    if wanted is None or not _fits(node.meta, wanted) or node.meta.dimension_names == wanted:
        return node
    document = parse_json(node.documents[NAME], path, NAME)
    data = dump_json(_named(document, list(wanted)))
    return node._replace(meta=msgspec.structs.replace(node.meta, dimension_names=wanted), documents={NAME: data})


def _named(document: dict[str, object], names: list[str]) -> dict[str, object]:
    """Return an array's document with dimension names after the attributes, as in zarr's own documents."""
    if "dimension_names" in document or "attributes" not in document:
        return {**document, "dimension_names": names}
    items = list(document.items())
    items.insert([name for name, _ in items].index("attributes") + 1, ("dimension_names", names))
    return dict(items)
