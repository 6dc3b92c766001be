"""Scenario files: what they may say, where they come from, and how mistakes are told."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from broker.codecs import CODECS, Float32, Int8, Pq
from broker.urls import EXAMPLE
from scenarios.loading.load import ScenarioError, dump_resolved, load_scenario
from scenarios.loading.shipped import question, shipped
from scenarios.schema.flows import AnyCodec
from scenarios.schema.network import FleetGroup
from scenarios.schema.scenario import Scenario, client_names, scenario_digest
from scenarios.schema.task_spec import Skew
from tests.scenarios.schema_walk import keys_of

COMPLETE = """\
name: small
task: {partition: iid}
training:
  rounds: 3
  cohort: 2
  head_lr: 0.1
  tail_lr: 0.1
fleet:
  - {count: 4}
"""

TASK_WITH = """
import torch
from torch import nn
from scenarios.task import Task

def task():
    return Task(
        name="mine", metric="accuracy", classes=2, target_shape={target_shape}, cut_shape=(6,),
        head=lambda: {head}, tail=lambda: nn.Linear(6, 2), loss=None, score=print, load=None,
    )
"""


CODECS_KNOWN = ", ".join(sorted(CODECS))
ANY_CODEC = " or ".join(CODECS_KNOWN.rsplit(", ", 1))
SHIPPED = ", ".join(shipped())


def write(folder: Path, text: str = COMPLETE, name: str = "my.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def errors_of(path: Path, *overrides: str) -> list[str]:
    """Give the lines of the error, each without the folder of the file."""
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


# what is loaded


def test_defaults_fill_what_a_file_leaves_out(tmp_path: Path) -> None:
    scenario = load_scenario(write(tmp_path))
    assert scenario.seed == 0
    assert scenario.task.name == "digits28"
    assert scenario.task.batch_size == 20
    assert scenario.training.local_steps == 1
    assert scenario.training.evaluate_every == 10
    assert scenario.training.correction.lambda_ == 0.0
    assert scenario.flows.activations_up == scenario.flows.head_state_down == Float32()
    assert scenario.stragglers.policy == "wait_all"
    assert scenario.stragglers.rejoin_s == 10.0
    assert scenario.stragglers.retry_s == 600.0
    assert scenario.broker.kind == "embedded"
    assert scenario.fleet == (FleetGroup(count=4),)


def test_codecs_and_partitions_become_what_they_name(tmp_path: Path) -> None:
    scenario = load_scenario(
        write(tmp_path),
        [
            "flows.activations_up={codec: pq, subvectors: 1152, groups: 1, centroids: 2}",
            "task.partition={dirichlet_alpha: 1}",
        ],
    )
    assert scenario.flows.activations_up == Pq(subvectors=1152, groups=1, centroids=2)
    assert scenario.task.partition == Skew(dirichlet_alpha=1.0)


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "1E-04", "0.0001", "+1e-4", ".1e-3"])
def test_exponents_are_numbers_with_and_without_a_point(tmp_path: Path, text: str) -> None:
    scenario = load_scenario(write(tmp_path), [f"training.correction.lambda={text}"])
    assert scenario.training.correction.lambda_ == 1e-4


def test_scenarios_cannot_be_changed(tmp_path: Path) -> None:
    scenario = load_scenario(write(tmp_path))
    with pytest.raises(ValidationError):
        scenario.seed = 3


def test_every_codec_can_be_named() -> None:
    union, _ = get_args(AnyCodec)
    assert set(get_args(union)) == set(CODECS.values())


def test_client_names_are_as_wide_as_the_fleet_needs(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert client_names(load_scenario(path)) == ["c0", "c1", "c2", "c3"]
    fifty = client_names(load_scenario(path, ["fleet=[{count: 20}, {count: 30}]"]))
    assert fifty[:2] == ["c00", "c01"]
    assert fifty[-1] == "c49"
    assert client_names(load_scenario(path, ["fleet.0.count=101"]))[-1] == "c100"


# the digest


def test_digest_is_the_same_on_the_other_side_of_a_copy(tmp_path: Path) -> None:
    scenario = load_scenario("quickstart")
    digest = scenario_digest(scenario)
    assert len(bytes.fromhex(digest)) == 8
    assert scenario_digest(load_scenario(write(tmp_path, dump_resolved(scenario)))) == digest


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "task.batch_size=10",
        "training.head_lr=0.2",
        "training.correction.lambda=1e-4",
        "flows.gradient_down.codec=int8",
        "flows.error_feedback=true",
        "training.local_steps=2",
        "fleet.0.count=5",
    ],
)
def test_digest_notices_what_both_sides_must_agree_upon(tmp_path: Path, override: str) -> None:
    path = write(tmp_path)
    assert scenario_digest(load_scenario(path, [override])) != scenario_digest(load_scenario(path))


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "broker.kind=mosquitto",
        "stragglers={policy: wait_all, retry_s: 5}",
        "task.batch_size=20",
        "training.rounds=77",
        "training.evaluate_every=7",
        "fleet.0.device=raspberry-pi-4",
    ],
)
def test_digest_leaves_out_what_each_side_may_choose(tmp_path: Path, override: str) -> None:
    path = write(tmp_path)
    assert scenario_digest(load_scenario(path, [override])) == scenario_digest(load_scenario(path))


@pytest.mark.parametrize("rates", ["training.lr_decay=linear", "training.correction.schedule=linear_decay"])
def test_digest_notices_the_rounds_where_rates_depend_on_them(tmp_path: Path, rates: str) -> None:
    path = write(tmp_path)
    few, many = (load_scenario(path, [rates, f"training.rounds={rounds}"]) for rounds in (7, 77))
    assert scenario_digest(few) != scenario_digest(many)


def test_digest_tells_codecs_apart_that_have_nothing_but_defaults(tmp_path: Path) -> None:
    path = write(tmp_path)
    codecs = ("float16", "int8", "int4", "float32")
    loaded = [load_scenario(path, [f"flows.head_update_up={{codec: {codec}}}"]) for codec in codecs]
    assert len({scenario_digest(scenario) for scenario in loaded}) == len(codecs)


def test_digest_of_the_quickstart_stays_as_it_is_from_release_to_release() -> None:
    assert scenario_digest(load_scenario("quickstart")) == "d6b9cbda0b2e246a"


def test_digest_leaves_out_where_a_machine_keeps_data(tmp_path: Path) -> None:
    path = write(tmp_path)
    there, elsewhere = (
        load_scenario(path, ["task.name=fashion_mnist", f"task.path={folder}"]) for folder in ("/a", "/b")
    )
    assert there != elsewhere
    assert scenario_digest(there) == scenario_digest(elsewhere)


# extends, overrides, paths


def test_extending_merges_deeply_and_the_nearer_file_wins(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "extends: my.yaml\nname: middle\ntraining: {cohort: 3, rounds: 5}\n", "middle.yaml")
    top = write(tmp_path, "extends: ./middle.yaml\nname: top\ntraining: {rounds: 9}\n", "top.yml")
    scenario = load_scenario(top)
    assert scenario.name == "top"
    assert (scenario.training.rounds, scenario.training.cohort, scenario.training.head_lr) == (9, 3, 0.1)


def test_extending_a_shipped_scenario_by_name(tmp_path: Path) -> None:
    scenario = load_scenario(write(tmp_path, "extends: quickstart\nname: mine\nseed: 5\n"))
    assert scenario == load_scenario("quickstart", ["name=mine", "seed=5"])


def test_lists_are_replaced(tmp_path: Path) -> None:
    write(tmp_path)
    path = write(tmp_path, "extends: my.yaml\nfleet: [{count: 2}, {count: 1}]\n", "top.yaml")
    assert load_scenario(path).fleet == (FleetGroup(count=2), FleetGroup(count=1))


def test_another_codec_does_not_inherit_the_first_ones_parameters(tmp_path: Path) -> None:
    path = write(tmp_path, "extends: quickstart\nflows: {activations_up: {codec: int8}}\n")
    assert load_scenario(path).flows.activations_up == Int8()
    assert load_scenario("quickstart", ["flows.activations_up.codec=int8"]) == load_scenario(path)


def test_the_same_codec_keeps_them(tmp_path: Path) -> None:
    path = write(tmp_path, "extends: quickstart\nflows: {activations_up: {codec: pq, centroids: 4}}\n")
    assert load_scenario(path).flows.activations_up == Pq(subvectors=1152, groups=1, centroids=4)


def test_overrides_come_last_and_in_order(tmp_path: Path) -> None:
    scenario = load_scenario(
        write(tmp_path),
        ["training.rounds=7", "training={rounds: 8, cohort: 1}", "training.cohort=3", "fleet.0.count=6"],
    )
    assert (scenario.training.rounds, scenario.training.cohort) == (8, 3)
    assert scenario.fleet_size == 6


def test_paths_are_relative_to_where_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    write(base, COMPLETE + "broker: {kind: url, url: mqtts://broker, ca_file: ca.pem}\n")
    path = write(tmp_path, "extends: base/my.yaml\n", "top.yaml")
    assert load_scenario(path).broker.ca_file == base / "ca.pem"
    monkeypatch.chdir(tmp_path)
    scenario = load_scenario("top.yaml", ["task.name=femnist", "task.path=../data"])
    assert scenario.task.path == tmp_path.parent / "data"
    assert scenario.broker.ca_file == base / "ca.pem"


def test_own_module_is_relative_to_its_scenario(tmp_path: Path) -> None:
    (tmp_path / "my_task.py").write_text(TASK_WITH.format(target_shape="()", head="nn.Linear(4, 6)"))
    path = write(tmp_path, COMPLETE.replace("{partition", "{name: mine, module: my_task.py, partition"))
    assert load_scenario(path).task.module == str(tmp_path / "my_task.py")


def test_resolved_scenarios_load_again_as_equal_ones(tmp_path: Path) -> None:
    overrides = ["training.correction.lambda=1e-5", "broker={kind: url, url: 'mqtts://b', ca_file: ca.pem}"]
    for name in shipped():
        scenario = load_scenario(name, overrides[name == "fedavg" :])  # which has no lambda
        assert load_scenario(write(tmp_path, dump_resolved(scenario))) == scenario


# shipped scenarios


def test_shipped_scenarios_are_what_they_say() -> None:
    assert {"fedlite-300", "quickstart", "splitfed", "splitfed-300"} <= set(shipped())
    assert {"all-flows", "codec-by-link", "fedavg"} <= set(shipped())
    for name, file in shipped().items():
        assert load_scenario(name).name == name
        assert "?" in question(file)
    assert load_scenario("splitfed").flows == load_scenario("splitfed-300").flows
    assert load_scenario("fedlite-300").flows == load_scenario("quickstart").flows


def test_the_opening_comment_is_a_scenarios_question(tmp_path: Path) -> None:
    assert question(write(tmp_path, "# Does it\n# work?\nname: x\n# later\n")) == "Does it work?"
    assert question(write(tmp_path, "name: x\n")) == ""


# mistakes in a file


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param(
            "  cohort: 2",
            "  cohrt: 2",
            [
                (
                    "my.yaml:5: training.cohrt: unknown key; did you mean 'cohort'? allowed: "
                    f"{keys_of('training')}"
                ),
            ],
            id="misspelt key",
        ),
        pytest.param(
            "fleet:",
            "zoo: 1\nfleet:",
            [
                (
                    "my.yaml:8: zoo: unknown key; allowed: "
                    "name, seed, task, training, flows, stragglers, fleet, broker, network, "
                    "server, simulation, extends, sweep"
                )
            ],
            id="unknown key, none near",
        ),
        pytest.param(
            "rounds: 3",
            "rounds: yes",
            ["my.yaml:4: training.rounds: must be a whole number >= 1, not true"],
            id="truth is no number",
        ),
        pytest.param(
            "rounds: 3",
            "rounds: '3'",
            ["my.yaml:4: training.rounds: must be a whole number >= 1, not '3'; write 3 without quotes"],
            id="text is no number",
        ),
        pytest.param(
            "rounds: 3",
            "rounds: 3.0",
            ["my.yaml:4: training.rounds: must be a whole number >= 1, not 3.0; write 3"],
            id="a fraction is no whole number",
        ),
        pytest.param(
            "rounds: 3",
            "rounds: 0",
            ["my.yaml:4: training.rounds: must be a whole number >= 1, not 0"],
            id="range",
        ),
        pytest.param(
            "rounds: 3",
            "rounds:",
            ["my.yaml:4: training.rounds: must be a whole number >= 1, not null"],
            id="empty",
        ),
        pytest.param(
            "head_lr: 0.1",
            "head_lr: 0",
            ["my.yaml:6: training.head_lr: must be a number > 0, not 0"],
            id="open range",
        ),
        pytest.param(
            "head_lr: 0.1",
            "head_lr: .nan",
            ["my.yaml:6: training.head_lr: must be a number > 0, not NaN"],
            id="not finite",
        ),
        pytest.param(
            "fleet:",
            "stragglers: {policy: wait_all, retry_s: 5 min}\nfleet:",
            ["my.yaml:8: stragglers.retry_s: must be a number of seconds > 0, not '5 min'; write 300"],
            id="unit",
        ),
        pytest.param(
            "name: small",
            "name: a/b",
            ["my.yaml:1: name: must be text of 1 to 32 letters, digits, _ or -, not 'a/b'; write 'a-b'"],
            id="pattern",
        ),
        pytest.param(
            "partition: iid",
            "partition: idd",
            [
                (
                    "my.yaml:2: task.partition: "
                    "must be iid, natural or local or a mapping with the keys dirichlet_alpha, shards, "
                    "classes_per_client, quantity_skew, min_samples, not 'idd'; "
                    "did you mean 'iid'?"
                )
            ],
            id="choice",
        ),
        pytest.param(
            "partition: iid",
            "partition: {dirichlet_alpha: -1}",
            ["my.yaml:2: task.partition.dirichlet_alpha: must be a number > 0, not -1"],
            id="inside a choice",
        ),
        pytest.param(
            "partition: iid",
            "partition: {alpha: 1}",
            [
                (
                    "my.yaml:2: task.partition.alpha: unknown key; did you mean 'dirichlet_alpha' or "
                    "'quantity_skew'? allowed: dirichlet_alpha, shards, classes_per_client, quantity_skew, "
                    "min_samples"
                ),
            ],
            id="key inside a choice",
        ),
        pytest.param(
            "partition: iid",
            "partition: {}",
            [
                (
                    "my.yaml:2: task.partition: needs one of dirichlet_alpha, shards, classes_per_client or "
                    "quantity_skew"
                )
            ],
            id="no kind of skew",
        ),
        pytest.param(
            "partition: iid",
            "partition: {shards: 2, classes_per_client: 2}",
            ["my.yaml:2: task.partition: takes one of shards and classes_per_client, not both"],
            id="two kinds of skew",
        ),
        pytest.param(
            "partition: iid",
            "partition: {shards: 2, quantity_skew: 1}",
            ["my.yaml:2: task.partition: quantity_skew goes alone or with dirichlet_alpha, not with shards"],
            id="two kinds of skew that exclude each other",
        ),
        pytest.param(
            "task: {partition: iid}",
            "task: 3",
            [f"my.yaml:2: task: must be a mapping with the keys {keys_of('task')}, not 3"],
            id="no mapping",
        ),
        pytest.param(
            "  - {count: 4}",
            "  count: 4",
            [
                (
                    "my.yaml:8: fleet: must be a list, not a mapping; "
                    "put it into a list, with '- ' before its first key"
                )
            ],
            id="no list",
        ),
        pytest.param(
            "  - {count: 4}",
            "  - {count: 4}\n  - {count: few}",
            ["my.yaml:10: fleet.1.count: must be a whole number >= 1, not 'few'"],
            id="in a list",
        ),
        pytest.param(
            "task: {partition: iid}\n",
            "",
            [f"my.yaml:1: task: required but missing; must be a mapping with the keys {keys_of('task')}"],
            id="missing part",
        ),
        pytest.param(
            "task: {partition: iid}",
            "task: {partition: iid, name: digits}",
            [
                (
                    "my.yaml:2: task.name: unknown task 'digits'; did you mean 'digits28'? "
                    "known: digits28, fashion_mnist, femnist, shakespeare, watch_exercises, debtags, "
                    "leaf_shakespeare, stackoverflow_tags, stackoverflow_nwp; your own one needs task.module"
                )
            ],
            id="unknown task",
        ),
        pytest.param(
            "task: {partition: iid}",
            "task: {partition: iid, name: femnist}",
            [
                (
                    "my.yaml:2: task.path: femnist needs the folder with the LEAF JSON files "
                    "(all_data_*_train_*.json, ..._test_*.json) or the parquet files of flwrlabs/femnist"
                )
            ],
            id="task without its folder",
        ),
        pytest.param(
            "  cohort: 2",
            "  cohort: 5",
            ["my.yaml:5: training.cohort: must be at most the fleet's 4 clients, not 5"],
            id="cohort above the fleet",
        ),
        pytest.param(
            "fleet:\n  - {count: 4}",
            "fleet: []",
            ["my.yaml:8: fleet: must have at least one group of clients"],
            id="no fleet",
        ),
        pytest.param(
            "fleet:",
            "seed: 1\nseed: 2\nfleet:",
            ["my.yaml:9: the key 'seed' is there twice"],
            id="key twice",
        ),
    ],
)
def test_mistakes_are_told_with_line_key_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, message: list[str]
) -> None:
    assert errors_of(write(tmp_path, COMPLETE.replace(old, new))) == message


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        pytest.param(
            "{codec: pqq}",
            "my.yaml:11: flows.activations_up.codec: unknown codec 'pqq'; did you mean 'pq'? "
            f"known: {CODECS_KNOWN}",
            id="unknown codec",
        ),
        pytest.param(
            "{centroids: 2}",
            "my.yaml:11: flows.activations_up.centroids: unknown key of codec float32, the default; "
            "allowed: codec; for another codec name it: pq or coded_pq",
            id="parameter of no codec",
        ),
        pytest.param(
            "float16",
            f"my.yaml:11: flows.activations_up: must be a mapping with a codec of {ANY_CODEC}, not 'float16'"
            "; write {codec: float16}",
            id="no mapping",
        ),
        pytest.param(
            "{codec: int8, bits: 8}",
            "my.yaml:11: flows.activations_up.bits: unknown key; allowed: codec",
            id="unknown parameter",
        ),
        pytest.param(
            "{codec: pq, subvectors: many, groups: 1, centroids: 2}",
            "my.yaml:11: flows.activations_up.subvectors: must be a whole number, not 'many'",
            id="type of a parameter",
        ),
    ],
)
def test_mistakes_in_codecs_name_the_known_ones(tmp_path: Path, flow: str, message: str) -> None:
    text = f"{COMPLETE}flows:\n  activations_up: {flow}\n"
    assert errors_of(write(tmp_path, text)) == [message]


@pytest.mark.parametrize("flow", ["activations_up", "gradient_down"])
def test_codecs_of_the_cut_must_fit_its_size(tmp_path: Path, flow: str) -> None:
    text = f"{COMPLETE}flows:\n  {flow}: {{codec: pq, subvectors: 1000, groups: 1, centroids: 2}}\n"
    with pytest.raises(ValueError, match="9216") as refused:
        Pq(subvectors=1000).check(9216)
    assert errors_of(write(tmp_path, text)) == [f"my.yaml:11: flows.{flow}: {refused.value}"]


@pytest.mark.parametrize("flow", ["head_update_up", "head_state_down"])
def test_codecs_of_the_head_must_fit_its_parameters(tmp_path: Path, flow: str) -> None:
    text = f"{COMPLETE}flows:\n  {flow}: {{codec: pq, subvectors: 1152, groups: 1, centroids: 2}}\n"
    with pytest.raises(ValueError, match="18816") as refused:
        Pq(subvectors=1152).check(18_816)
    assert errors_of(write(tmp_path, text)) == [f"my.yaml:11: flows.{flow}: {refused.value}"]


def test_parameters_a_codec_refuses_are_told_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="centroids") as refused:
        Pq(centroids=300)
    text = f"{COMPLETE}flows:\n  activations_up: {{codec: pq, centroids: 300}}\n"
    assert errors_of(write(tmp_path, text)) == [f"my.yaml:11: flows.activations_up: {refused.value}"]
    override = "flows.activations_up={codec: pq, centroids: 300}"
    assert errors_of(write(tmp_path), override) == [
        f"--set {override}: flows.activations_up: {refused.value}"
    ]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = COMPLETE.replace("rounds: 3", "rounds: 0").replace("count: 4", "count: 0")
    assert len(errors_of(write(tmp_path, text))) == 2


@pytest.mark.parametrize(
    ("broker", "message"),
    [
        ("{kind: url}", "broker.url: goes with kind: url, and that needs it"),
        ("{kind: embedded, url: 'mqtt://b'}", "broker.url: goes with kind: url, and that needs it"),
        (
            "{kind: url, url: 'http://b'}",
            f"broker.url: not the URL of a broker: it must begin with mqtt:// or mqtts://; {EXAMPLE}",
        ),
        (
            "{kind: url, url: 'mqtt://b:99999'}",
            f"broker.url: not the URL of a broker: its port must be a number from 1 to 65535; {EXAMPLE}",
        ),
        ("{kind: url, url: 'mqtt://b', ca_file: ca.pem}", "broker.ca_file: goes with an mqtts:// url"),
        (
            "{kind: url, url: 'mqtt://b', password_file: p}",
            "broker.password_file: goes with a url that names a user, as mqtts://user@host",
        ),
        ("{kind: url, url: []}", "broker.url: must be the URL of a broker, or a list of such"),
        ("{kind: url, url: 5}", "broker.url: must be the URL of a broker, or a list of such"),
        (
            "{kind: ebmedded}",
            "broker.kind: must be embedded, mosquitto or url, not 'ebmedded'; did you mean 'embedded'?",
        ),
    ],
)
def test_broker_urls_must_fit_their_kind(tmp_path: Path, broker: str, message: str) -> None:
    assert errors_of(write(tmp_path, f"{COMPLETE}broker: {broker}\n")) == [f"my.yaml:10: {message}"]


@pytest.mark.parametrize(
    ("target_shape", "head", "message"),
    [
        pytest.param(
            "(3,)",
            "nn.Linear(4, 6)",
            "task.partition: dirichlet_alpha needs one class per sample; this task has other targets",
            id="several targets",
        ),
        pytest.param(
            "()",
            "nn.Linear(4, 6).double()",
            "task.module: the parameters of the task's head must be of 32 or 16 bits, unless they are frozen",
            id="double",
        ),
        pytest.param(
            "()",
            "nn.Linear(4)",
            "task.module: the task's head cannot be made: TypeError: "
            "Linear.__init__() missing 1 required positional argument: 'out_features' (my_task.py:9)",
            id="fails",
        ),
    ],
)
def test_own_tasks_must_fit_the_protocol(tmp_path: Path, target_shape: str, head: str, message: str) -> None:
    (tmp_path / "my_task.py").write_text(TASK_WITH.format(target_shape=target_shape, head=head))
    task = "{name: mine, module: my_task.py, partition: {dirichlet_alpha: 1}}"
    assert errors_of(write(tmp_path, COMPLETE.replace("{partition: iid}", task))) == [f"my.yaml:2: {message}"]


# mistakes that keep a file from being read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1,\n", "my.yaml:2: not YAML: the end of a list or mapping is missing: a ] or }"),
        (
            "a: 1\n b: 2\n",
            (
                "my.yaml:2: not YAML: a second ': ' in one line, or a line indented too far; "
                "text with ': ' needs quotes"
            ),
        ),
        (
            "name: !!python/name:os.system\n",
            (
                "my.yaml:1: not YAML: the tag tag:yaml.org,2002:python/name:os.system is not allowed; "
                "leave out the !"
            ),
        ),
        ("", "my.yaml: is empty; must be a mapping of keys to values"),
        ("- a\n", "my.yaml: is a list; must be a mapping of keys to values"),
        ("a: {b: 1,\n  b: 2}\n", "my.yaml:2: the key 'b' is there twice"),
        ("? [a]\n: 1\n", "my.yaml:1: a key must be text"),
        ("a: &x {b: *x}\n", "my.yaml:1: nested too deeply"),
        ("a: " + 5000 * "[", "my.yaml: nested too deeply"),
        ("a: 2024-99-99\n", "my.yaml:1: cannot read '2024-99-99': month must be in 1..12"),
        ("extends: my.yaml\n", "my.yaml:1: extends: goes in a circle: my.yaml -> my.yaml"),
        (
            "\nextends: [a]\n",
            "my.yaml:2: extends: must be the path of a file or the name of a shipped scenario",
        ),
        ("extends: gone.yaml\n", "my.yaml:1: extends: no such file: gone.yaml"),
        (
            "extends: quikstart\n",
            (
                "my.yaml:1: extends: unknown scenario 'quikstart'; did you mean 'quickstart'? "
                f"shipped: {SHIPPED}; or give the path of a .yaml file"
            ),
        ),
    ],
)
def test_unreadable_files_are_told_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    assert errors_of(write(tmp_path, text)) == [message]


def aliases(copies_of_each: int) -> str:
    """Give a small file whose `last` stands for 30 x 30 x `copies_of_each` values through its aliases."""
    first, second, third = (
        f"[{', '.join(items)}]" for items in (["1"] * 30, ["*a"] * 30, ["*b"] * copies_of_each)
    )
    return f"first: &a {first}\nsecond: &b {second}\nlast: {third}\n"


def test_aliases_that_multiply_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    path = write(tmp_path, aliases(200))
    (message,) = errors_of(path)
    assert message == "my.yaml:1: more than 100,000 values, counting what aliases repeat"


def test_aliases_that_repeat_little_are_values_like_any_other(tmp_path: Path) -> None:
    assert errors_of(write(tmp_path, aliases(2)))[-1].startswith("my.yaml:3: last: unknown key")
    text = COMPLETE.replace("head_lr: 0.1", "head_lr: &rate 0.2").replace("tail_lr: 0.1", "tail_lr: *rate")
    assert load_scenario(write(tmp_path, text)).training.tail_lr == 0.2


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(b"\xfe\xfe\x00")
    (message,) = errors_of(path)
    assert message == "my.yaml:1: is not text in UTF-8; save it in that encoding"


def test_circles_over_several_files_are_told(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml\n", "a.yaml")
    write(tmp_path, "extends: ./a.yaml\n", "b.yaml")
    assert errors_of(tmp_path / "a.yaml") == [
        "b.yaml:1: extends: goes in a circle: a.yaml -> b.yaml -> a.yaml"
    ]


def test_unknown_scenarios_name_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario("splitfed-30")
    assert str(caught.value) == (
        "unknown scenario 'splitfed-30'; did you mean 'splitfed-300'? "
        f"shipped: {SHIPPED}; or give the path of a .yaml file"
    )
    with pytest.raises(ScenarioError) as caught:
        load_scenario(tmp_path / "gone.yaml")
    assert str(caught.value) == f"no such file: {tmp_path}/gone.yaml"


# mistakes across files and on the command line


def test_mistakes_name_the_file_their_key_came_from(tmp_path: Path) -> None:
    write(tmp_path, COMPLETE.replace("cohort: 2", "cohort: 20"))
    path = write(tmp_path, "extends: my.yaml\n\ntraining: {rounds: -1}\n", "top.yaml")
    assert errors_of(path) == ["top.yaml:3: training.rounds: must be a whole number >= 1, not -1"]
    assert errors_of(path, "training.rounds=1") == [
        "my.yaml:5: training.cohort: must be at most the fleet's 4 clients, not 20"
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.cohort=many",
            "--set training.cohort=many: training.cohort: must be a whole number >= 1, not 'many'",
        ),
        (
            "training.cohort=9",
            "--set training.cohort=9: training.cohort: must be at most the fleet's 4 clients, not 9",
        ),
        (
            "trainig.cohort=2",
            (
                "--set trainig.cohort=2: trainig: unknown key; did you mean 'training'? allowed: "
                "name, seed, task, training, flows, stragglers, fleet, broker, network, "
                "server, simulation, extends, sweep"
            ),
        ),
        (
            "task.partition.alpha.x=2",
            (
                "--set task.partition.alpha.x=2: task.partition.alpha: unknown key; did you mean "
                "'dirichlet_alpha' or 'quantity_skew'? allowed: dirichlet_alpha, shards, classes_per_client, "
                "quantity_skew, min_samples"
            ),
        ),
        (
            "flows.activations_up.codec=zip",
            (
                "--set flows.activations_up.codec=zip: flows.activations_up.codec: unknown codec 'zip'; "
                f"known: {CODECS_KNOWN}"
            ),
        ),
        ("fleet.2.count=1", "--set fleet.2.count=1: '2' is no item of the list; it has items 0 to 0"),
        ("fleet.x=1", "--set fleet.x=1: 'x' is no item of the list; it has items 0 to 0"),
        ("training.cohort", "--set training.cohort: must be like training.cohort=5"),
        ("training..cohort=1", "--set training..cohort=1: must be like training.cohort=5"),
        (
            "training.cohort=[",
            "--set training.cohort=[: not YAML: the end of a list or mapping is missing: a ] or }",
        ),
    ],
)
def test_mistakes_in_overrides_name_the_override(tmp_path: Path, override: str, message: str) -> None:
    assert errors_of(write(tmp_path), override)[-1] == message


def test_a_codec_switched_by_an_override_is_the_overrides_fault(tmp_path: Path) -> None:
    text = f"{COMPLETE}flows:\n  activations_up: {{codec: int8}}\n"
    first, second = "flows.activations_up.codec=pq", "flows.activations_up.subvectors=5"
    (message,) = errors_of(write(tmp_path, text), first, second)
    assert message.startswith(f"--set {first}: flows.activations_up: subvectors must")


def test_python_built_scenarios_are_checked_for_types_and_ranges() -> None:
    with pytest.raises(ValidationError):
        Scenario.model_validate({"name": "x", "task": {"partition": "iid"}, "training": {}, "fleet": []})


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.8, 0.8, 0.8, 0.8]),
        ("linear_decay", [0.8, 0.6, 0.4, 0.2]),
        ("warmup_decay", [0.0, 0.6, 0.8, 0.6]),
    ],
)
def test_the_correction_has_a_schedule(tmp_path: Path, schedule: str, expected: list[float]) -> None:
    settings = ["training.correction.lambda=0.8", f"training.correction.schedule={schedule}"]
    training = load_scenario(write(tmp_path), [*settings, "training.rounds=4"]).training
    assert [training.lambda_in(number, 99.0) for number in range(1, 5)] == pytest.approx(expected)


def test_the_correction_may_be_relative(tmp_path: Path) -> None:
    assert load_scenario(write(tmp_path)).training.lambda_in(1, 99.0) == 0.0
    relative = load_scenario(write(tmp_path), ["training.correction.relative=0.1"]).training
    assert relative.lambda_in(2, 99.0) == pytest.approx(9.9)
    (message,) = errors_of(write(tmp_path), "training.correction={lambda: 0.1, relative: 0.1}")
    assert message.endswith("training.correction: takes lambda or relative, not both")
