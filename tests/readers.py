"""Arrays on a local disk as other readers of Zarr v3 read them."""

import numpy as np
import pytest
import zarr


def by_zarr(path):
    return np.asarray(zarr.open_array(path, mode="r")[...])


def by_zarrs(path):
    pytest.importorskip("zarrs", reason="zarrs has no wheel for this Python")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return np.asarray(zarr.open_array(path, mode="r")[...])


def by_tensorstore(path):
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore has no wheel for this Python")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    return np.asarray(tensorstore.open(spec, read=True).result().read().result())


READERS = {"zarr": by_zarr, "zarrs": by_zarrs, "tensorstore": by_tensorstore}
