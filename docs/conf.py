"""Configuration of the documentation site: Sphinx with the PyData theme."""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "shardedstore"
author = "the shardedstore developers"
copyright = author  # noqa: A001 (Sphinx gives the name)
version = release = version_of("shardedstore")

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.intersphinx", "sphinx_copybutton"]
root_doc = "index"
exclude_patterns = ["README.md"]  # the index of the folder for readers of the repository
html_theme = "pydata_sphinx_theme"
html_title = "shardedstore"
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 5,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {name: [] for name in ("tutorial", "for-scientists", "reference")}  # pages without pages below them
html_show_sourcelink = False
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc shows the types of the docstrings
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
