"""Exports: files of other formats by which other readers open a store as one Zarr, without a copy of its chunks."""
