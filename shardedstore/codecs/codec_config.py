"""Codec configurations: one form for filters and compressors of Zarr v2 and v3.

A codec is described as in numcodecs, ``{"id": "zstd", "level": 5}``, with all its options. Blosc's shuffle is given by
name. This module converts between this form and metadata documents, completes and checks options, and computes the data
type that filters return. It does not know the other properties of an array.
"""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import numcodecs
import numpy as np
from numcodecs.compat import ensure_ndarray_like
from zarr.abc.codec import ArrayArrayCodec, BytesBytesCodec
from zarr.registry import get_codec_class

Config = dict[str, Any]

CRC32C: Config = {"id": "crc32c"}

OBJECT_CODECS = {"vlen-utf8", "vlen-bytes", "vlen-array", "pickle", "json2", "msgpack2"}

SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")

# Defaults of zarr's v3 codecs, used for both formats.
DEFAULTS: dict[str, Config] = {
    "blosc": {"cname": "zstd", "clevel": 5, "shuffle": None, "blocksize": 0},
    "zstd": {"level": 0, "checksum": False},
    "gzip": {"level": 5},
}

# Options with several defaults: if absent, null or 0, they mean this property of the array. netCDF-C always shuffles
# whole elements, whatever the document says; numcodecs uses 4 if the option is absent, and does not shuffle if it is 0.
MEANT = {"shuffle": {"elementsize": "itemsize"}}

_NUMBER = re.compile(r"-?\d+")

LARGEST = {"blosc": 2**31 - 17, "lz4": 0x7E000000}  # the largest chunks of these codecs, in bytes

PREFIX = "numcodecs."

UNSAFE = {"pickle", f"{PREFIX}pickle"}  # codecs that run code of the writer when they decode


def safe_codec(config: Config) -> Any:
    """Return the codec of numcodecs for a configuration.

    >>> safe_codec({"id": "pickle"})
    Traceback (most recent call last):
    ValueError: the codec pickle runs code of the writer of the data, so that it is never decoded
    """
    if config["id"] in UNSAFE:
        raise ValueError(f"the codec {config['id']} runs code of the writer of the data, so that it is never decoded")
    return numcodecs.get_codec(dict(config))


def settled(options: Mapping[str, Any], name: str, itemsize: int | None) -> Config:
    """Return a codec's options with ambiguous values resolved as their writer meant them.

    These are options that numcodecs would read differently. Numbers that older netCDF-C wrote as text become integers.

    Parameters
    ----------
    options : mapping
        The options in the document.
    name : str
        The codec's name.
    itemsize : int or None
        The size in bytes of the elements that the codec encodes; None if it is unknown.

    Raises
    ------
    ValueError
        If an option depends on the size of the elements, and `itemsize` is None.

    Examples
    --------
    >>> settled({"elementsize": 0}, "shuffle", 8), settled({"level": "9"}, "zlib", 8), settled({"level": 9}, "zlib", 8)
    ({'elementsize': 8}, {'level': 9}, {'level': 9})
    """
    known = {k: int(v) if isinstance(v, str) and _NUMBER.fullmatch(v) else v for k, v in options.items()}
    for option in MEANT.get(name.removeprefix(PREFIX), {}):
        if not known.get(option):
            if itemsize is None:
                raise ValueError(f"{name} has no {option}, and the size of the elements is not known")
            known[option] = itemsize
    return known


def check_options(config: Mapping[str, Any]) -> None:
    """Raise TypeError for an option that a codec does not have, if its options are known.

    >>> check_options({"id": "zstd", "levle": 3})
    Traceback (most recent call last):
    TypeError: zstd has no option 'levle'; its options are: level, checksum
    """
    known = _known_options(config["id"])
    for option in config:
        if option != "id" and known is not None and option not in known:
            raise TypeError(f"{config['id']} has no option {option!r}; its options are: {', '.join(known) or 'none'}")


def _known_options(name: str) -> list[str] | None:
    if name in DEFAULTS:
        return [*DEFAULTS[name], *(["typesize"] if name == "blosc" else [])]
    codec = numcodecs.registry.codec_registry.get(name)
    if codec is None or codec.from_config.__func__ is not numcodecs.abc.Codec.from_config.__func__:
        return None
    parameters = inspect.signature(codec).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return None if takes_any else list(parameters)


def complete(config: Mapping[str, Any], zarr_format: int, itemsize: int) -> Config:
    """Return a configuration with every option, in the form of `from_json`.

    Parameters
    ----------
    config : mapping
        The codec's id, and any of its options.
    zarr_format : int
        2 or 3.
    itemsize : int
        The size in bytes of the encoded elements; 1 if they have none.

    Raises
    ------
    Exception
        Of any type, for an unknown codec or option, because numcodecs and zarr raise different ones.

    Examples
    --------
    >>> complete({"id": "blosc", "cname": "lz4"}, 3, 4)
    {'id': 'blosc', 'cname': 'lz4', 'clevel': 5, 'shuffle': 'shuffle', 'blocksize': 0, 'typesize': 4}
    """
    name = config["id"]
    if name not in DEFAULTS:
        full = _completed(dict(config))
        stored = to_json(full, 3)["name"]
        if zarr_format == 3 and not issubclass(get_codec_class(stored), BytesBytesCodec):
            raise TypeError(f"{stored} is not a bytes-to-bytes codec")
        return full
    full = {"id": name, **DEFAULTS[name], **config}
    if name == "blosc":
        full["shuffle"] = _shuffle(full["shuffle"], itemsize)
        if zarr_format == 3:
            full.setdefault("typesize", itemsize)
        else:
            full.pop("typesize", None)  # in Zarr v2, the buffer's item size is used
    _check_core({"typesize": 1, **full} if name == "blosc" else full)
    return full


def _shuffle(shuffle: Any, itemsize: int) -> Any:
    if shuffle is None or shuffle in {-1, "autoshuffle"}:
        return SHUFFLES[2] if itemsize == 1 else SHUFFLES[1]
    return SHUFFLES[shuffle] if shuffle in {0, 1, 2} else shuffle


def _check_core(config: Config) -> None:
    options = {key: value for key, value in config.items() if key != "id"}
    get_codec_class(config["id"]).from_dict({"name": config["id"], "configuration": options})


def _completed(config: Config) -> Config:
    """Complete the options of a codec without defaults here, by the library that has the codec."""
    if config == CRC32C:
        return config
    if is_of_numcodecs(config["id"]):
        return dict(numcodecs.get_codec(dict(config)).get_config())
    return from_v3(zarr_codec(config).to_dict())


def zarr_codec(config: Config) -> Any:
    """Return zarr's codec for a configuration."""
    options = {key: value for key, value in config.items() if key != "id"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr 3.1 warns about each numcodecs codec
        return get_codec_class(config["id"]).from_dict({"name": config["id"], "configuration": options})


def from_json(codec: Any, zarr_format: int, itemsize: int) -> Config:
    """Return the configuration of a codec in a metadata document.

    The options of an unknown codec are returned unchanged.

    >>> from_json({"id": "blosc", "cname": "lz4", "shuffle": 2}, 2, 4)
    {'id': 'blosc', 'cname': 'lz4', 'clevel': 5, 'shuffle': 'bitshuffle', 'blocksize': 0}
    >>> from_json({"name": "numcodecs.zlib", "configuration": {"level": 9}}, 3, 4)
    {'id': 'zlib', 'level': 9}
    """
    config = dict(codec) if zarr_format == 2 else from_v3(codec)
    if zarr_format == 2 and config.get("id") == "blosc":
        config = {"shuffle": 1, "cname": "lz4", **config}  # numcodecs' own defaults
    try:
        return complete(config, zarr_format, itemsize)
    except Exception:  # noqa: BLE001 (an unknown codec is reported when something is decoded)
        return config


def from_v3(codec: Any) -> Config:
    """Return the configuration of a codec in a v3 document, with only the options given there."""
    name = codec if isinstance(codec, str) else codec["name"]
    options = {} if isinstance(codec, str) else codec.get("configuration") or {}
    short = name.removeprefix(PREFIX)
    return {"id": name if short in DEFAULTS or short == "crc32c" else short, **options}


def to_json(config: Config, zarr_format: int) -> Any:
    """Return a configuration in the form of metadata documents.

    >>> to_json({"id": "zlib", "level": 9}, 2), to_json({"id": "zlib", "level": 9}, 3)
    ({'id': 'zlib', 'level': 9}, {'name': 'numcodecs.zlib', 'configuration': {'level': 9}})
    """
    if zarr_format == 2:
        if config["id"] == "zstd" and not config["checksum"]:
            return {"id": "zstd", "level": config["level"]}  # as in zarr: older readers do not know the checksum option
        return for_numcodecs(config)
    options = {key: value for key, value in config.items() if key != "id"}
    name = config["id"]
    if name not in DEFAULTS and f"{PREFIX}{name}" in _v3_names():
        name = f"{PREFIX}{name}"
    if options or name.startswith(PREFIX):  # zarr requires a configuration for numcodecs codecs, even an empty one
        return {"name": name, "configuration": options}
    return {"name": name}


def _v3_names() -> set[str]:
    return {f"{PREFIX}{name}" for name in numcodecs.registry.codec_registry if name not in {*DEFAULTS, "crc32c"}}


def for_numcodecs(config: Config) -> Config:
    """Return a configuration in the form of numcodecs."""
    if config["id"] != "blosc":
        return config
    return {**config, "shuffle": SHUFFLES.index(config["shuffle"])}


def same(one: Iterable[Config], other: Iterable[Config]) -> bool:
    """Tell whether two lists of configurations are equal."""
    return json.dumps(list(one), sort_keys=True) == json.dumps(list(other), sort_keys=True)


def config_of(codec: Any) -> Config | None:
    """Return the configuration of a codec in any form that users give; None for no codec.

    It can be an id, a configuration, or a codec of numcodecs or zarr.

    >>> config_of("zstd"), config_of("none"), config_of(numcodecs.Zlib(9))
    ({'id': 'zstd'}, None, {'id': 'zlib', 'level': 9})
    >>> config_of({"name": "gzip", "configuration": {"level": 9}})
    {'id': 'gzip', 'level': 9}

    Raises
    ------
    TypeError
        For anything else.
    """
    if codec is None or codec == "none":
        return None
    if isinstance(codec, str):
        return {"id": codec}
    if isinstance(codec, numcodecs.abc.Codec):
        return dict(codec.get_config())
    if isinstance(codec, BytesBytesCodec):
        config = from_v3(codec.to_dict())
        for name in (*getattr(codec, "_tunable_attrs", ()), *(["typesize"] if config.get("typesize") == 1 else [])):
            config.pop(name, None)  # zarr sets these later, from the array
        return config
    if isinstance(codec, ArrayArrayCodec):
        return from_v3(codec.to_dict())
    if isinstance(codec, Mapping) and isinstance(codec.get("id"), str):
        return dict(codec)
    if isinstance(codec, Mapping) and isinstance(codec.get("name"), str):
        return from_v3(codec)
    raise TypeError(f"{codec!r} is not a codec: give an id, a configuration, or a codec of numcodecs or zarr")


LOSSY = {"bitround", "quantize"}  # filters that change values by design


def complete_filters(
    configs: Iterable[Mapping[str, Any]], zarr_format: int, dtype: np.dtype[Any] | None
) -> tuple[Config, ...]:
    """Return filter configurations with every option.

    A data type that is not given is taken from the elements that the filter gets.

    Raises
    ------
    Exception
        Of any type, for an unknown filter or option, or one that the Zarr format or the data type does not allow.

    Examples
    --------
    >>> complete_filters([{"id": "delta"}, {"id": "shuffle"}], 2, np.dtype("<i4"))
    ({'id': 'delta', 'dtype': '<i4', 'astype': '<i4'}, {'id': 'shuffle', 'elementsize': 4})
    """
    full: list[Config] = []
    for config in configs:
        known = _completed_filter(_with_type(config, dtype))
        if zarr_format == 3 and not issubclass(get_codec_class(name := to_json(known, 3)["name"]), ArrayArrayCodec):
            raise TypeError(f"{name} is not an array-to-array codec, as filters of Zarr v3 must be")
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


def _completed_filter(config: Config) -> Config:
    if is_of_numcodecs(config["id"]):
        full = dict(numcodecs.get_codec(config).get_config())
    else:
        full = from_v3(zarr_codec(config).to_dict())
    plain: Config = json.loads(json.dumps(full))
    return plain


def is_of_numcodecs(name: str) -> bool:
    """Tell whether numcodecs has a codec of this id, or a package that is installed registers one there."""
    return name in numcodecs.registry.codec_registry or name in numcodecs.registry.entries


def is_of_zarr(name: str) -> bool:
    """Tell whether zarr has a codec of this name, or a package that is installed registers one there."""
    try:
        get_codec_class(name)
    except Exception:  # noqa: BLE001 (zarr raises various errors for unknown codecs)
        return False
    return True


def unknown_codec(name: str) -> str:
    """Return the end of a message about the id of a codec that is not installed; empty for one that is.

    >>> unknown_codec("zsdt"), unknown_codec("zstd")
    ("an unknown codec: did you mean 'zstd'?", '')
    """
    if is_of_numcodecs(name) or is_of_zarr(name):
        return ""
    known = {*numcodecs.registry.codec_registry, *numcodecs.registry.entries}
    near = get_close_matches(name, sorted(known), 1)
    return f"an unknown codec: {f'did you mean {near[0]!r}?' if near else 'install the package that has it'}"


def filter_from_json(codec: Any, zarr_format: int) -> Config:
    """Return the configuration of a filter in a metadata document.

    The options of an unknown filter are returned unchanged.

    >>> filter_from_json({"name": "transpose", "configuration": {"order": (1, 0)}}, 3)
    {'id': 'transpose', 'order': [1, 0]}
    >>> filter_from_json({"id": "delta", "dtype": "<i4"}, 2)
    {'id': 'delta', 'dtype': '<i4', 'astype': '<i4'}
    """
    config = dict(codec) if zarr_format == 2 else from_v3(codec)
    try:
        return _completed_filter(config)
    except Exception:  # noqa: BLE001 (an unknown filter is reported when it is run)
        return config


def filtered_dtype(configs: Iterable[Config], dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of the elements after some filters, found by filtering a few elements.

    >>> filtered_dtype([{"id": "delta", "dtype": "<i8", "astype": "<i2"}], np.dtype("<i8"))
    dtype('int16')
    >>> filtered_dtype([{"id": "vlen-array", "dtype": "<i8"}], np.dtype(object))
    dtype('uint8')
    """
    configs = list(configs)
    if dtype.hasobject and configs and configs[0]["id"] in OBJECT_CODECS:  # no sample can represent all objects
        configs, dtype = configs[1:], np.dtype("u1")
    sample: Any = np.full(8, "", object) if dtype.hasobject else np.zeros(8, dtype)
    for config in configs:
        if is_of_numcodecs(config["id"]):
            with np.errstate(all="ignore"):
                sample = ensure_ndarray_like(numcodecs.get_codec(dict(config)).encode(sample))
        else:
            zarr_codec(config)  # raises for an unknown codec; known ones keep the type
    found: np.dtype[Any] = sample.dtype
    return found
