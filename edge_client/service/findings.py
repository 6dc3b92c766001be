"""What checks find, and which exit code follows."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from broker.exits import Exit
from broker.transports.access import Access

_Verdict = Literal["ok", "failed", "skipped"]
_WORST = (Exit.COMPLETE, Exit.UNREACHABLE, Exit.CONFIGURATION, Exit.AUTHENTICATION)


@dataclass(frozen=True, slots=True)
class Finding:
    """What came out of one check.

    Attributes:
        what: was checked.
        verdict: of it.
        text: what was found; if it failed, what to do.
        exit: what a command ends with because of it.
    """

    what: str
    verdict: _Verdict
    text: str
    exit: Exit = Exit.COMPLETE

    def __str__(self) -> str:
        return f"{self.verdict:<8}{self.what:<12}{self.text}"


@dataclass(frozen=True, slots=True)
class Device:
    """What is checked.

    Attributes:
        access: how it gets to the broker.
        name: of the device.
        run: that it takes part in; empty: any.
        module: the task's own code.
        files: of the bundle; the clock is not before them.
    """

    access: Access
    name: str
    run: str = ""
    module: str = ""
    files: tuple[Path, ...] = ()


def ok(what: str, text: str) -> Finding:
    """Say what is as it must be."""
    return Finding(what, "ok", text)


def failed(what: str, text: str, exit_code: Exit = Exit.CONFIGURATION) -> Finding:
    """Say what is wrong and what to do."""
    return Finding(what, "failed", text, exit_code)


def skipped(what: str, why: str) -> Finding:
    """Say what could not be tried, and why."""
    return Finding(what, "skipped", why)


def worst(findings: Iterable[Finding]) -> Exit:
    """Give the exit code of the worst: no right to come in, then a mistake, then nobody there."""
    return max((finding.exit for finding in findings), key=_WORST.index, default=Exit.COMPLETE)
