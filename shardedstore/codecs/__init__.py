"""What Zarr's codecs do, for v2 and v3 alike: described, checked, run, and written anew."""
