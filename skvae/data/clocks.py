"""Times by the clocks of a time zone."""

from __future__ import annotations

import datetime as dt
import zoneinfo

import numpy as np
from numpy.typing import NDArray

from skvae.data.containers import DAYS_OF_PYTHON, UNITS, Ticks

_SECONDS = UNITS["D"] // UNITS["s"]  # of a day


def days_in_zone(given: Ticks, zone: str) -> NDArray[np.float64] | None:
    """Return times, which are counted in UTC, as days by the clocks of a time zone; None of a zone that is not known."""
    per_second = max(1, UNITS["s"] // given.unit)
    seconds, rest = np.divmod(given.counts, per_second)
    seconds = seconds * max(1, given.unit // UNITS["s"])
    offset = _offsets(seconds, zone, is_local=False)
    if offset is None:
        return None
    days, second = np.divmod(seconds + offset, _SECONDS)
    return np.where(given.missing, np.nan, days + (second + rest / per_second) / _SECONDS)


def begin_of_days(days: NDArray[np.float64], zone: str) -> NDArray[np.float64]:
    """Return when days begin in a time zone, in seconds of UTC; NaN where a day is missing."""
    missing = np.isnan(days)
    seconds = np.where(missing, 0.0, np.clip(np.round(days), *DAYS_OF_PYTHON)).astype(np.int64) * _SECONDS
    offset = _offsets(seconds, zone, is_local=True)
    return np.where(missing, np.nan, seconds if offset is None else seconds - offset)


def _offsets(seconds: NDArray[np.int64], zone: str, *, is_local: bool) -> NDArray[np.int64] | None:
    """Return seconds by which a time zone is ahead of UTC, at seconds in it or of UTC; None of a zone that is not known."""
    try:
        info = zoneinfo.ZoneInfo(zone)
    except (ValueError, zoneinfo.ZoneInfoNotFoundError):
        return None
    low, high = ((days + side) * _SECONDS for days, side in zip(DAYS_OF_PYTHON, (1, -1), strict=True))  # with room for an offset
    distinct, index = np.unique(np.clip(seconds, low, high), return_inverse=True)
    begin = dt.datetime(1970, 1, 1, tzinfo=info if is_local else dt.UTC)
    moments = [
        begin + dt.timedelta(seconds=second) for second in distinct.tolist()
    ]  # of clocks in the zone, where they are local
    found = [moment.astimezone(info).utcoffset() for moment in moments]
    return np.array([0 if each is None else int(each.total_seconds()) for each in found], dtype=np.int64)[index.reshape(-1)]
