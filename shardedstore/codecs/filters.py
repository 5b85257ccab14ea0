"""How filters are described: the codecs that change an array's elements before they are bytes, for Zarr v2 and v3."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numcodecs
import numpy as np
from numcodecs.compat import ensure_ndarray_like
from zarr.abc.codec import ArrayArrayCodec
from zarr.registry import get_codec_class

from shardedstore.codecs.codec_config import OBJECT_CODECS, Config, from_v3, to_json, zarr_codec

LOSSY = {"bitround", "quantize"}  # what these filters are for is to change values


def complete_filters(
    configs: Iterable[Mapping[str, Any]], zarr_format: int, dtype: np.dtype[Any] | None
) -> tuple[Config, ...]:
    """Return descriptions with every option; a type of elements that is not given is that of the elements that come.

    Raises
    ------
    Exception
        Of any kind, for an unknown filter or option, or one that the Zarr format or the elements do not allow.

    Examples
    --------
    >>> complete_filters([{"id": "delta"}, {"id": "shuffle"}], 2, np.dtype("<i4"))
    ({'id': 'delta', 'dtype': '<i4', 'astype': '<i4'}, {'id': 'shuffle', 'elementsize': 4})
    """
    full: list[Config] = []
    for config in configs:
        known = _completed(_with_type(config, dtype))
        if zarr_format == 3 and not issubclass(get_codec_class(name := to_json(known, 3)["name"]), ArrayArrayCodec):
            raise TypeError(f"{name} does not make an array of an array, as the filters of Zarr v3 do")
        if zarr_format == 2:
            numcodecs.get_codec(dict(known))
        dtype = None if dtype is None else filtered_dtype([known], dtype)
        full.append(known)
    return tuple(full)


def _with_type(config: Mapping[str, Any], dtype: np.dtype[Any] | None) -> Config:
    if dtype is not None and config["id"] == "delta":
        return {"dtype": f"{dtype.str[0]}i8" if dtype.kind in "mM" else dtype.str, **config}
    if dtype is not None and config["id"] == "shuffle":
        return {"elementsize": dtype.itemsize, **config}
    return dict(config)


def _completed(config: Config) -> Config:
    if _is_of_numcodecs(config):
        full = dict(numcodecs.get_codec(config).get_config())
    else:
        full = from_v3(zarr_codec(config).to_dict())
    plain: Config = json.loads(json.dumps(full))
    return plain


def _is_of_numcodecs(config: Mapping[str, Any]) -> bool:
    return config["id"] in numcodecs.registry.codec_registry or config["id"] in numcodecs.registry.entries


def filter_from_json(codec: Any, zarr_format: int) -> Config:
    """Return the description of a filter in a metadata document; of one that is not known here, what stands there.

    >>> filter_from_json({"name": "transpose", "configuration": {"order": (1, 0)}}, 3)
    {'id': 'transpose', 'order': [1, 0]}
    >>> filter_from_json({"id": "delta", "dtype": "<i4"}, 2)
    {'id': 'delta', 'dtype': '<i4', 'astype': '<i4'}
    """
    config = dict(codec) if zarr_format == 2 else from_v3(codec)
    try:
        return _completed(config)
    except Exception:  # noqa: BLE001 (what can't be completed is told when it is to be run)
        return config


def filtered_dtype(configs: Iterable[Config], dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of what comes out of some filters, which a few elements are sent through.

    >>> filtered_dtype([{"id": "delta", "dtype": "<i8", "astype": "<i2"}], np.dtype("<i8"))
    dtype('int16')
    >>> filtered_dtype([{"id": "vlen-array", "dtype": "<i8"}], np.dtype(object))
    dtype('uint8')
    """
    configs = list(configs)
    if dtype.hasobject and configs and configs[0]["id"] in OBJECT_CODECS:  # of objects that no sample stands for
        configs, dtype = configs[1:], np.dtype("u1")
    sample: Any = np.full(8, "", object) if dtype.hasobject else np.zeros(8, dtype)
    for config in configs:
        if _is_of_numcodecs(config):
            with np.errstate(all="ignore"):
                sample = ensure_ndarray_like(numcodecs.get_codec(dict(config)).encode(sample))
        else:
            zarr_codec(config)  # raises for one that is not known; those that are keep the type
    found: np.dtype[Any] = sample.dtype
    return found
