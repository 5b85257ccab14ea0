"""Relative paths of a job file."""

from __future__ import annotations

import os
from typing import Any, get_args, get_type_hints

import msgspec

from shardedstore.storage.urls import is_remote


def in_folder(values: dict[str, Any], spec: type, folder: str) -> dict[str, Any]:
    """Return values whose relative paths are relative to a folder; the fields are marked with ``path``."""
    paths = {name for name, hint in get_type_hints(spec, include_extras=True).items() if _is_path(hint)}
    return {key: _in_folder(value, folder) if key in paths else value for key, value in values.items()}


def _is_path(hint: Any) -> bool:
    return any(isinstance(meta, msgspec.Meta) and (meta.extra or {}).get("path") for meta in get_args(hint)[1:])


def _in_folder(value: Any, folder: str) -> Any:
    if not isinstance(value, str) or is_remote(value) or value.startswith("~"):
        return value
    return os.path.normpath(os.path.join(folder, value))
