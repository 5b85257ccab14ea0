"""Layouts of results, with the names of the outputs and the way to publish them."""
