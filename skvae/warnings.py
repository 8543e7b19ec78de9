"""Warnings that point at the user's line instead of the package's."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import sklearn

# scikit-learn wraps `fit`: its frames are no more the user's than ours.
_INNER = tuple(str(Path(file).parent) for file in (__file__, sklearn.__file__))


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the first frame outside this package and scikit-learn."""
    stacklevel = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INNER):
        frame = frame.f_back
        stacklevel += 1
    warnings.warn(message, category, stacklevel=stacklevel)
