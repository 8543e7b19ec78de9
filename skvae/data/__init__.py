"""What a table is: rows, what belongs to each, and statistics of the columns; numpy alone."""

from skvae.data.table import Table

__all__ = ["Table"]
