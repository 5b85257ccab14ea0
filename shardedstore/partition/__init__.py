"""Divide a Zarr into shards, or collect many Zarrs as shards: patterns, sizes and the resulting config."""
