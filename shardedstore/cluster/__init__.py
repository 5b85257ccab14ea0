"""Jobs on Dask: the only room that imports it."""
