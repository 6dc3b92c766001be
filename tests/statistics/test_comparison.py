"""Settings: seeds are replicates of them, and what is told of them."""

import itertools
import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.statistics.comparison import cells, compare, head_of, how_compared, in_one_sentence, lines_of
from sim.statistics.setting_words import compact, in_words, key_in_words, keys_in_words
from sim.statistics.trials import METRIC, Trial, key_that_matters, panels_of, reached, settings_of, trial_of


def trial(seed: int, metric: float | None, seconds: float = 10.0, why: str = "", **keys: object) -> Trial:
    return Trial(
        keys, seed, f"run-{seed}", "virtual", "accuracy", metric=metric, seconds=seconds, bytes=1000, why=why
    )


def grid(seeds: int, **effects: float) -> list[Trial]:
    """Give trials of policies, each with its effect on the metric, over two rates."""
    draws = random.Random(0)
    return [
        trial(seed, 0.5 + effect + draws.uniform(0, 0.02), 100 / rate, policy=name, rate_kbps=rate)
        for (name, effect), rate, seed in itertools.product(effects.items(), (1, 2), range(seeds))
    ]


def test_a_setting_has_a_trial_for_each_seed() -> None:
    settings = settings_of(grid(3, a=0.0, b=0.1))
    assert [setting.keys for setting in settings] == [
        {"policy": name, "rate_kbps": rate} for name in "ab" for rate in (1, 2)
    ]
    assert all(len(setting.trials) == 3 for setting in settings)


def test_runs_that_are_not_over_do_not_count() -> None:
    [setting] = settings_of(
        [
            trial(1, 0.5, a=1),
            trial(2, 0.9, a=1, why="failed: no"),
            trial(3, 0.7, a=1, why="unfinished: 3 rounds"),
        ]
    )
    assert setting.by_seed(METRIC) == {1: 0.5}
    assert cells(compare(setting.trials))[0][1] == "1 (1 failed, 1 unfinished)"


def test_a_choice_is_compared_rather_than_a_number() -> None:
    trials = grid(2, a=0.0, b=0.1)
    assert key_that_matters(settings_of(trials)) == "policy"
    assert [panel.rest for panel in panels_of(settings_of(trials), "policy")] == [
        {"rate_kbps": 1},
        {"rate_kbps": 2},
    ]
    assert compare(trials, "rate_kbps").by == "rate_kbps"


def test_of_two_choices_the_one_with_more_effect_is_compared() -> None:
    trials = [
        trial(s, 0.5 + 0.01 * (a == "x") + 0.2 * (b == "v"), a=a, b=b)
        for a in "xy"
        for b in "uv"
        for s in (1, 2)
    ]
    assert key_that_matters(settings_of(trials)) == "b"


def test_the_best_is_called_better_only_where_seeds_agree() -> None:
    comparison = compare(grid(5, low=0.0, alike=0.198, high=0.2))
    verdicts = [row[-1] for row in cells(comparison)]
    assert sorted(set(verdicts)) == ["not told apart", "reference", "worse"]
    assert [verdicts[0], verdicts[3]] == ["worse", "worse"]
    sentence = in_one_sentence(comparison)
    assert "is better than low" in sentence
    assert "cannot be told apart from" in sentence
    assert "seed" not in " ".join(head_of(comparison)).replace("seeds", "")


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.randoms())
def test_no_seed_is_ever_ranked(metrics: list[float], draws: random.Random) -> None:
    """One seed for each setting: no reference, no verdict, and the order is the grid's."""
    trials = [trial(draws.randrange(3), metric, policy=str(number)) for number, metric in enumerate(metrics)]
    comparison = compare(trials)
    assert all(line.reference is None and line.difference is None for line in lines_of(comparison))
    assert [row[0] for row in cells(comparison)] == [str(number) for number in range(len(metrics))]
    said = f"{in_one_sentence(comparison)} {how_compared(comparison)} {' '.join(head_of(comparison))}"
    assert not re.search(r"\b(best|better|worse|winner|verdict)\b", said)
    assert "One seed each, so nothing is ranked" in said


def test_untrained_runs_are_compared_by_time() -> None:
    trials = [
        trial(seed, None, 10.0 * (1 + (codec == "float32")) + seed / 100, codec=codec)
        for codec in ("float32", "pq")
        for seed in range(3)
    ]
    comparison = compare(trials)
    assert [row[-2:] for row in cells(comparison)] == [["2.00x", "slower"], ["", "reference"]]
    assert in_one_sentence(comparison) == "pq has the least time and is quicker than float32."


def test_rows_of_a_table_become_trials() -> None:
    row = {
        "policy": "a", "seed": 3, "run": "r", "mode": "simulate", "metric.name": "loss", "metric.final": 0.2,
        "metric.better": "lower", "bytes.activations_up.wire": 5, "bytes.control.wire": 2,
        "links.up": 30, "links.down": 11,
        "virtual_seconds": 9.0, "error": None,
    }  # fmt: skip
    made = trial_of(row, ("policy", "seed"))
    assert (made.keys, made.seed, made.metric, made.bytes, made.seconds) == ({"policy": "a"}, 3, 0.2, 7, 9.0)
    assert made.link_bytes == 41
    assert not made.higher_is_better
    failed = trial_of({"policy": "a", "run": "r", "error": "no data"}, ("policy",))
    assert (failed.why, failed.metric, failed.seconds) == ("failed: no data", None, None)


def test_lower_metrics_have_the_lowest_as_reference() -> None:
    row = {
        "run": "r",
        "mode": "simulate",
        "metric.name": "loss",
        "metric.better": "lower",
        "virtual_seconds": 1.0,
    }
    trials = [trial_of({**row, "p": p, "seed": s, "metric.final": v + s / 1000}, ("p", "seed"))
              for p, v in (("a", 0.2), ("b", 0.9)) for s in range(3)]  # fmt: skip
    assert [row[-1] for row in cells(compare(trials))] == ["reference", "worse"]


def test_different_metrics_are_never_compared() -> None:
    kinds = (("loss", "lower", (2.0, 1.0)), ("accuracy", "higher", (0.2, 0.9)))
    rows = [
        {"run": "r", "mode": "simulate", "metric.name": name, "metric.better": better, "virtual_seconds": 1.0,
         "p": p, "seed": seed, "metric.final": value + seed / 1000}
        for name, better, values in kinds for p, value in zip("ab", values, strict=True) for seed in range(3)
    ]  # fmt: skip
    comparison = compare([trial_of(row, ("p", "seed")) for row in rows])
    assert comparison.by == "p"
    assert [panel.rest for panel in comparison.panels] == [{"metric": "loss"}, {"metric": "accuracy"}]
    assert [row[-1] for row in cells(comparison)] == ["worse", "reference", "worse", "reference"]
    assert comparison.metric_name == "loss or accuracy"


def test_a_target_is_reached_from_the_worse_side() -> None:
    assert [reached(value, 0.5) for value in (None, 0.4, 0.5)] == [False, False, True]
    assert [reached(value, 0.5, higher_better=False) for value in (None, 0.4, 0.6)] == [False, True, False]


@pytest.mark.parametrize(
    ("value", "words", "short"),
    [
        ({"policy": "deadline", "deadline_s": 2, "minimum": 6}, "deadline, 2 s, minimum 6", "deadline-2-6"),
        ('{"policy":"wait_all"}', "wait_all", "wait_all"),
        ({"codec": "pq", "subvectors": 1152, "groups": 1}, "pq, subvectors 1152, groups 1", "pq-1152-1"),
        ({"uplink_kbps": 64.0, "latency_ms": 20}, "uplink 64 kbit/s, latency 20 ms", "64.0-20"),
        ([1, {"a": None}], "1; a not given", "1-null"),
        (True, "yes", "true"),
        (0.1 + 0.2, "0.3", "0.30000000000000004"),
        ("{no json", "{no json", "{no json"),
    ],
)  # fmt: skip
def test_settings_in_words(value: object, words: str, short: str) -> None:
    assert in_words(value) == words
    assert compact(value) == short


names = st.text("abc_", max_size=5)
plain = st.none() | st.booleans() | st.integers() | names


@given(
    st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))
)
def test_words_have_no_signs_of_json(value: object) -> None:
    assert not set('{}[]"') & set(in_words(value))
    assert in_words(json.dumps(value)) == in_words(value) or not isinstance(value, dict | list)


def test_keys_are_named_as_briefly_as_they_differ() -> None:
    keys = ["fleet.0.link.uplink_kbps", "network.server.link", "fleet.0.link"]
    assert key_in_words(keys[0], keys) == "uplink (kbit/s)"
    assert key_in_words(keys[1], keys) == "network.server.link"
    assert keys_in_words({keys[0]: 64, "stragglers": {"policy": "wait_all"}}) == "uplink 64 kbit/s, wait_all"


def test_runs_that_failed_are_told_beside_what_the_others_came_to() -> None:
    trials = [*grid(3, a=0.0, b=0.5), trial(3, None, why="failed: diverged", policy="b", rate_kbps=1)]
    told = in_one_sentence(compare(trials, "policy"))
    assert told.startswith("In each of 2 cases: b has the best mean")
    assert told.endswith("1 of 13 runs failed and count in no mean.")
    assert "failed" not in in_one_sentence(compare(grid(3, a=0.0, b=0.5), "policy"))


def test_two_codecs_are_told_apart_by_their_flows() -> None:
    keys = {"flows.activations_up": {"codec": "int8"}, "flows.gradient_down": {"codec": "int4"}}
    assert keys_in_words(keys) == "activations up int8, gradient down int4"
    assert keys_in_words({"flows.gradient_down": {"codec": "int4"}, "seed": 1}) == "int4, seed 1"
