"""Sizes, times and ratios in words, for the screen, tables and reports alike."""

_UNITS = ("B", "kB", "MB", "GB", "TB")
_TIMES = ((1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h"))
"""Below so many seconds, a unit of so many seconds is taken, and its name."""


def format_bytes(size_bytes: float) -> str:
    """Write a number of bytes in powers of 1000, such as 2.5 GB."""
    for unit in _UNITS[:-1]:
        if size_bytes < 1000:  # noqa: PLR2004  SI prefix
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} {_UNITS[-1]}"


def format_seconds(seconds: float) -> str:
    """Write a duration with three digits in the unit that suits it, such as 12.3 min."""
    for below_s, unit_s, unit in _TIMES:
        if seconds < below_s:
            return f"{seconds / unit_s:.3g} {unit}"
    return f"{seconds / 86_400:.1f} d"


def format_ratio(ratio: float | None, digits: int = 1) -> str:
    """Write how many times fewer bytes it were, such as 248.9x; nothing if that is not known."""
    return f"{ratio:.{digits}f}x" if ratio else ""
