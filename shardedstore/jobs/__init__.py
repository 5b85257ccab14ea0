"""A job from its checks to its config, and what it leaves. It knows no Dask."""
