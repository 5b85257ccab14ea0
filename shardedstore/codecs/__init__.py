"""Codecs of Zarr v2 and v3: configurations, encoding and decoding, the sharding codec, and migration from v2 to v3."""
