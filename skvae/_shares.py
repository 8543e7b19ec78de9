"""From the columns behind the steps of a pipeline back to those that they were made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder

from skvae.pipeline import category_groups, is_active


def columns_behind(model: Any, steps: list[tuple[str, Any]]) -> np.ndarray:
    """Positions among a pipeline's columns of what each column behind some of its steps was made of.

    Raises
    ------
    TypeError
        If a step makes a column of several.
    """
    given = getattr(model, "feature_names_in_", None)
    names = np.asarray([f"x{j}" for j in range(model.n_features_in_)] if given is None else given, dtype=object)
    return _through(steps, names)


def _through(steps: list[tuple[str, Any]], names: np.ndarray) -> np.ndarray:
    sources = np.arange(len(names))
    for label, step in steps:
        if is_active(step):
            own = _sources(label, step, names)
            sources, names = sources[own], _names_out(step, names, len(own))
    return sources


def _sources(label: str, step: Any, names: np.ndarray) -> np.ndarray:
    """Positions among the columns that go into a step, by name, of what each that comes out was made of."""
    if isinstance(step, Pipeline):
        return _through(step.steps, names)
    if isinstance(step, ColumnTransformer):
        found = np.zeros(sum(part.stop - part.start for part in step.output_indices_.values()), dtype=np.intp)
        for name, inner, columns in step.transformers_:
            positions = _positions(columns, names)
            if len(positions) and not (isinstance(inner, str) and inner == "drop"):
                steps = [] if isinstance(inner, str) else [(name, inner)]
                found[step.output_indices_[name]] = positions[_through(steps, names[positions])]
        return found
    if isinstance(step, OneHotEncoder):
        return np.repeat(np.arange(len(names)), [size for size, _ in category_groups(step)])
    if isinstance(step, KBinsDiscretizer) and step.encode != "ordinal":
        return np.repeat(np.arange(len(names)), step.n_bins_)
    out = step.get_feature_names_out(names) if hasattr(step, "get_feature_names_out") else None
    if out is None or not set(out) <= set(names) or len(set(out)) < len(out):
        raise TypeError(
            f"Step {label!r} ({type(step).__name__}) mixes or renames columns, or does not tell their names "
            "(get_feature_names_out), so that shares cannot be led back to those of X; explain goes through steps that keep "
            "columns, such as scalers, or encode each by itself."
        )
    places = {name: j for j, name in enumerate(names)}
    return np.array([places[name] for name in out], dtype=np.intp)


def _names_out(step: Any, names: np.ndarray, n_columns: int) -> np.ndarray:
    """Names of the columns that come out of a step; any, where it has none for them."""
    try:
        return np.asarray(step.get_feature_names_out(names), dtype=object)
    except (AttributeError, ValueError):
        return np.asarray([f"x{j}" for j in range(n_columns)], dtype=object)


def _positions(columns: Any, names: np.ndarray) -> np.ndarray:
    """Positions of columns that a column transformer was given, by names, positions, a mask or a slice."""
    everywhere = np.arange(len(names))
    if isinstance(columns, slice):
        if not isinstance(columns.start, str) and not isinstance(columns.stop, str):
            return everywhere[columns]
        places = names.tolist()
        start = 0 if columns.start is None else places.index(columns.start)
        stop = len(places) if columns.stop is None else places.index(columns.stop) + 1  # of names, the last one belongs to it
        return everywhere[start : stop : columns.step]
    columns = np.atleast_1d(np.asarray(columns, dtype=object if isinstance(columns, str) else None))
    if columns.dtype.kind in "OUS" and len(columns):
        places = {name: j for j, name in enumerate(names)}
        return np.array([places[name] for name in columns.tolist()], dtype=np.intp)
    return everywhere[columns if len(columns) else []]
