"""What a table is: where rows come from, what belongs to each, and statistics of the columns; numpy alone."""

from skvae.data.sources import ArraySource, Source, SparseSource, as_source, dense, is_sparse
from skvae.data.table import Table
from skvae.data.windows import Windows, join_windows, sliding_windows

__all__ = [
    "ArraySource",
    "Source",
    "SparseSource",
    "Table",
    "Windows",
    "as_source",
    "dense",
    "is_sparse",
    "join_windows",
    "sliding_windows",
]
