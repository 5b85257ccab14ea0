"""What the sinks have in common: zips, files side by side, one ordinary Zarr."""
