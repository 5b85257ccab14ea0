"""zarr's fused codec pipeline for single arrays, without a change of zarr's configuration.

The pipeline decodes without the event loop, if the store can be read so. zarr 3.4 has it, and takes the class of pipelines
from its configuration, which belongs to the whole process.
"""

from __future__ import annotations

from typing import Any

import zarr
from zarr.core import codec_pipeline
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import default_buffer_prototype


def fuse(array: zarr.Array[Any]) -> bool:
    """Give an open array the fused pipeline, and tell whether it has it now.

    An array with a pipeline that the user has configured keeps it, and older versions of zarr keep their own. Pickled arrays
    keep the fused pipeline.

    >>> array = zarr.create_array(zarr.storage.MemoryStore(), shape=(3,), chunks=(1,), dtype="i4")
    >>> fuse(array) == hasattr(codec_pipeline, "FusedCodecPipeline")
    True
    """
    fused: Any = getattr(codec_pipeline, "FusedCodecPipeline", None)
    found: Any = array.async_array
    pipeline = found.codec_pipeline
    if fused is None or type(pipeline) is not codec_pipeline.BatchedCodecPipeline:
        return fused is not None and type(pipeline) is fused
    metadata = found.metadata
    spec = ArraySpec(
        shape=(1,) * array.ndim,  # a transform of chunks depends on no shape
        dtype=metadata.dtype,
        fill_value=metadata.fill_value,
        config=found.config,
        prototype=default_buffer_prototype(),
    )
    made = fused.from_codecs(tuple(pipeline)).evolve_from_array_spec(spec)
    object.__setattr__(found, "codec_pipeline", made)  # the class is frozen
    return True
