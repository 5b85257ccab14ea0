"""Component stores: their kinds, parts of them, and many of them routed as one."""
