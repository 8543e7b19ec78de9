"""Configuration of the documentation: ``sphinx-build docs docs/_build``."""

import skvae

project = "skvae"
author = "The skvae developers"
copyright = "2026, The skvae developers"
release = skvae.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax", "numpydoc", "myst_parser"]
html_theme = "alabaster"
html_title = f"skvae {release}"
myst_enable_extensions = ["dollarmath"]
exclude_patterns = ["_build"]
numpydoc_show_class_members = False
autodoc_default_options = {"members": True, "inherited-members": "BaseEstimator", "exclude-members": "get_metadata_routing"}
suppress_warnings = ["ref.term", "ref.ref"]  # scikit-learn's own labels, in methods that are inherited
