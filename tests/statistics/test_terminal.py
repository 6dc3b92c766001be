"""The table of a comparison, in a file and on terminals of any width: no number is cut off."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from broker.errors import StudyError
from sim.statistics import terminal
from sim.statistics.comparison import cells, compare
from sim.statistics.trials import Trial

POLICY = {"policy": "over_select", "extra": 2}
CODEC = {"codec": "pq", "subvectors": 1152, "groups": 1, "centroids": 2}


def trials(seeds: int = 3) -> list[Trial]:
    return [
        Trial(
            {"stragglers": POLICY, "uplink_kbps": rate, "activations_up": codec},
            seed, f"{rate}-{seed}", "virtual", "accuracy", metric=0.5 + 0.01 * seed, seconds=336.2 + seed,
            bytes=48_800_000, link_bytes=51_600_000,
        )
        for rate in (125, 4000) for codec in (CODEC, {"codec": "float16"}) for seed in range(seeds)
    ]  # fmt: skip


def printed(width: int, *, on_terminal: bool, seeds: int = 3) -> str:
    seen = io.StringIO()
    made = Console(file=seen, force_terminal=on_terminal, width=width, color_system=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal, "Console", lambda: made)
        terminal.print_comparison(trials(seeds), "activations_up")
    return seen.getvalue()


def test_a_file_has_each_setting_in_a_line() -> None:
    lines = printed(80, on_terminal=False).splitlines()
    assert len(lines) == 1 + 4
    for line, row in zip(lines[1:], cells(compare(trials(), "activations_up"), brief=True), strict=True):
        assert all(cell in line for place, cell in enumerate(row) if place != 3)  # seeds are told below
    assert "virtual s" in lines[0]
    assert "verdict" in lines[0]


@given(width=st.integers(20, 200), seeds=st.integers(1, 3))
def test_no_number_is_cut_off_on_a_terminal(width: int, seeds: int) -> None:
    text = printed(width, on_terminal=True, seeds=seeds)
    mean = compare(trials(seeds), "activations_up").settings[0].estimate("seconds")
    assert mean is not None
    assert text.count(f"{mean.mean:.1f}") == 4
    assert max(map(len, text.splitlines())) <= max(width, 90)  # what it cannot do without needs some room


def test_a_narrow_terminal_says_what_it_does_not_show(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(80, on_terminal=True)
    assert "on links" not in text
    assert "Not shown, for want of width: on links, bytes, difference." in capsys.readouterr().out
    assert "on links" in printed(200, on_terminal=True)
    assert "Not shown" not in capsys.readouterr().out


def test_each_key_that_may_be_compared_is_told_once() -> None:
    with pytest.raises(StudyError) as told:
        terminal.chosen_key("codek", ["stragglers", "flows.gradient_down.codec"])
    words = str(told.value).partition("compared can be: ")[2]
    assert words == "stragglers, codec, flows.gradient_down.codec"
