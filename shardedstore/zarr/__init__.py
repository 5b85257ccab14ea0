"""Parse and write Zarr's metadata documents and keys, as pure functions of names and bytes."""
