"""Whether an array's chunks can be made anew: what is asked before anything runs."""

from __future__ import annotations

import numpy as np

from shardedstore.codecs.arraycodecs import ChunkCodec, is_identical
from shardedstore.codecs.codec_config import LARGEST
from shardedstore.codecs.codec_probe import few_elements, read_one_chunk
from shardedstore.errors import ChainError
from shardedstore.steps.recode import Recoder


def check_recoding(recoder: Recoder) -> None:
    """Encode a few elements and decode them again, so that what can't be encoded is refused before anything runs.

    Raises
    ------
    ChainError
    """
    if not recoder.recodes:
        return
    compression = recoder.encoder.compression
    for config in compression.configs:
        largest = LARGEST.get(config["id"])
        if largest is not None and recoder.chunk_nbytes > largest:
            raise ChainError(
                f"{recoder.step_name} can't encode {recoder.path!r} with {config['id']}: its chunks have {recoder.chunk_nbytes} "
                f"bytes, and {config['id']} takes {largest} at most"
            )
    if recoder.refilters:
        _check_filters(recoder)
    elif recoder.decodes:
        _check_values(recoder)
    dtype = compression.dtype or np.dtype(f"V{recoder.old.itemsize}")
    sample = bytes(range(256)) * dtype.itemsize if dtype.kind != "b" else b"\0\1" * 128
    try:
        got = bytes(compression.decode(compression.encode(sample)))
    except Exception as error:
        raise ChainError(
            f"{recoder.step_name} can't encode {recoder.path!r} ({recoder.old.dtype}) with {compression}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if got != sample:
        raise ChainError(
            f"{recoder.step_name} can't encode {recoder.path!r} ({recoder.old.dtype}) with {compression}: it changes the values"
        )


def _check_filters(recoder: Recoder) -> None:
    """Let zarr read a few elements through the new filters; whether they keep the values is seen chunk by chunk."""
    names = ", ".join(config["id"] for config in recoder.new.filters) or "no filters"
    try:
        doc = recoder.new_doc.one_chunk(tuple(min(size, 4) for size in recoder.new_doc.chunks))
        with np.errstate(all="ignore"):
            stored = ChunkCodec(doc, arrays=True).encode(
                np.full(doc.chunks, recoder.encoder.padding, recoder.new.dtype)
            )
            read_one_chunk(doc, stored)
    except Exception as error:
        raise ChainError(
            f"{recoder.step_name} can't encode {recoder.path!r} ({recoder.old.dtype}) with {names}: {type(error).__name__}: {error}"
        ) from error


def _check_values(recoder: Recoder) -> None:
    """Refuse codecs that misread what they wrote: what a few elements have become must stay so when it is written again."""
    doc = recoder.new_doc.one_chunk(tuple(max(1, min(size, 4)) for size in recoder.new_doc.chunks))
    assert recoder.new.dtype is not None
    try:
        codec = ChunkCodec(doc, arrays=True)
        once = codec.decode(codec.encode(few_elements(recoder.new.dtype, doc.chunks)))
        again = codec.decode(codec.encode(once))
    except Exception:  # noqa: BLE001 (of values that these codecs do not take)
        return
    if not is_identical(once, again):
        raise ChainError(
            f"{recoder.step_name} can't encode {recoder.path!r} ({recoder.old.dtype}): its filters give other values each time that "
            "they are written, in zarr too. Give it others first, with Recompress(filters=...)"
        )
