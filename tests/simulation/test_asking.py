"""At default settings a run over slow links completes, and asking the silent costs next to nothing.

`benchmarks.reliability` does the same for every link preset.
"""

import pytest

from benchmarks.reliability import SLOW, Cost, cost, links


@pytest.mark.parametrize("preset", ["wifi", "nb-iot", "lora-backhaul"])
def test_asking_costs_at_most_two_per_cent_where_nothing_is_lost(preset: str) -> None:
    costs = list(links([preset], clients=[2], local_steps=4, rounds=2))
    assert len(costs) == 2 * 4
    assert [each for each in costs if not each.is_small] == []


def test_devices_that_compute_for_minutes_are_left_in_peace() -> None:
    name = "FedAvg, 800 local steps on Raspberry Pi Zeros, wifi"
    scenario, settings = SLOW[name]
    assert cost(name, scenario, settings, "{policy: wait_all}").is_small


@pytest.mark.parametrize(
    "worse",
    [
        {"completes": False},
        {"time_ratio": 1.03},
        {"bytes_ratio": 1.03},
        {"mqtt_ratio": 1.03},
    ],
)
def test_a_cost_above_two_per_cent_is_noticed(worse: dict[str, float]) -> None:
    usual = {"completes": True, "time_ratio": 1.02, "bytes_ratio": 1.02, "mqtt_ratio": 1.02}
    assert Cost("run", virtual_s=1.0, **usual).is_small  # type: ignore[arg-type]
    assert not Cost("run", virtual_s=1.0, **usual | worse).is_small  # type: ignore[arg-type]
