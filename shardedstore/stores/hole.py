"""Holes: shards that failed and that the user accepted as missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, NoReturn

from msgspec import Meta
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.errors import HoleError
from shardedstore.stores.location import Location
from shardedstore.zarr.readonly import PROTOTYPE, ReadOnlyStore


class Hole(Location, frozen=True, tag="hole", omit_defaults=True):
    """A failed shard that the user accepted as missing; reading it is an error."""

    shard: Annotated[str, Meta(description="The name of the shard in messages, such as `temperature[5]`.")]
    cause: Annotated[str, Meta(description="The error that failed the shard.")] = ""

    def open(self, *, read_only: bool = True) -> Store:
        # docstring inherited
        return HoleStore(self)

    @property
    def hole(self) -> Hole:
        # docstring inherited
        return self

    def layers(self, path: str) -> NoReturn:
        # docstring inherited
        HoleStore(self).refuse()

    def show(self) -> str:
        # docstring inherited
        return f"the hole {self.shard!r}"


class HoleStore(ReadOnlyStore):
    """A store that raises HoleError at each access, so that no reader sees fill values."""

    def __init__(self, hole: Hole) -> None:
        super().__init__()
        self.hole = hole

    def __eq__(self, other: object) -> bool:
        return type(other) is HoleStore and self.hole == other.hole

    def __repr__(self) -> str:
        return f"<HoleStore of {self.hole.shard!r}>"

    def refuse(self) -> NoReturn:
        """Raise the HoleError of this hole."""
        raise HoleError(
            f"{self.hole.shard!r} is a hole: this shard failed when the result was made ({self.hole.cause}), and the user accepted "
            "that. Repair the source and run the same job again, which retries this shard; or read other parts"
        )

    async def get(
        self, key: str, prototype: BufferPrototype = PROTOTYPE, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        self.refuse()

    async def exists(self, key: str) -> bool:
        # docstring inherited
        self.refuse()

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        for key in self._keys():
            yield key

    def _keys(self) -> tuple[str, ...]:
        self.refuse()
