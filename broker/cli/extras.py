"""Which extra of this package brings what is not installed, as its own metadata say."""

import re

from broker.errors import UserError

DISTRIBUTION = "fedlite-mqtt"
_EXTRA = re.compile(r"([\w.-]+).*;.*\bextra == ['\"]([\w-]+)['\"]")


class MissingExtraError(UserError):
    """A command needs a package that comes with an extra of this one."""


def missing_extra(error: ModuleNotFoundError, extra: str = "") -> MissingExtraError | None:
    """Turn the failed import of a package that an extra brings into a sentence; None for other packages.

    Args:
        error: names the package.
        extra: to be named; empty: the first one that brings the package.
    """
    package = (error.name or "").partition(".")[0]
    bringing = extras().get(package)
    if bringing is None:
        return None
    return MissingExtraError(
        f"this needs {package}, which is not installed: "
        f"pip install '{DISTRIBUTION}[{extra or bringing}]' brings it"
    )


def extras() -> dict[str, str]:
    """Give the first extra that names each package; a distribution here has the name of what is imported."""
    from importlib.metadata import PackageNotFoundError, requires  # noqa: PLC0415  slow, and for mistakes only

    try:
        requirements = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # a checkout that is not installed
        return {}
    found = filter(None, map(_EXTRA.match, requirements))
    return dict(reversed([(match[1], match[2]) for match in found]))
