"""How a user divides a Zarr, or gathers many: patterns, sizes, and what they come to."""
