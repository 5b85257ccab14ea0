"""Zarr's own documents and keys: pure functions of names and bytes."""
