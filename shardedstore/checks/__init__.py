"""Check any Zarr for damage, and compare the structure of two Zarrs."""
