"""Mistakes in scenario files are told in one sentence each that says what to write.

The keys are taken from the schema, so that a new one is tried as well.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from broker.codecs.topk import TopK
from scenarios.errors import ScenarioError
from scenarios.loading.load import dump_resolved, load_scenario
from scenarios.schema.scenario import Scenario
from tests.helpers import small_scenario
from tests.scenarios.schema_walk import NUMBERS, PLACES, SCHEMA, Place


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("fleet.0.link.uplink_kbps=1Mbit", "must be a number of kbit/s > 0, not '1Mbit'; write 1000"),
        ("stragglers.retry_s=5 min", "must be a number of seconds > 0, not '5 min'; write 300"),
        ("fleet.0.link={uplink_mbps: 1}", "unknown key; write uplink_kbps: 1000; allowed: "),
        ("fleet.0.link.loss=5", "not 5; it is a share: write 0.05 for 5 %"),
        ("fleet.0.link.loss=5%", "not '5%'; write 0.05"),
        ("training.learning_rate=1", "unknown key; did you mean 'head_lr' or 'tail_lr'? allowed: "),
        (
            "flows.gradient_down={codec: int8, bit: 4}",
            "unknown key; allowed: codec; for 4 bits write codec: int4",
        ),
        ("training.lr_decay=Liner", "not 'Liner'; did you mean 'linear'?"),
        ("stragglers={policy: deadline, deadline: 4}", "deadline: unknown key; did you mean 'deadline_s'?"),
        ("name=a b", "name: must be text of 1 to 32 letters, digits, _ or -, not 'a b'"),
    ],
)
def test_messages_say_what_to_write(tmp_path: Path, setting: str, told: str) -> None:
    with pytest.raises(ScenarioError, match=re.escape(told)):
        small_scenario(tmp_path, setting)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"my\.yaml: is empty; must be a mapping of keys to values$"),
        ("task:\n\tname: x\n", r"my\.yaml:2: not YAML: a tab; indent with spaces$"),
    ],
)
def test_files_that_hold_nothing_or_tabs_are_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(ScenarioError, match=told):
        load_scenario(tmp_path / "my.yaml")


def test_a_shipped_name_with_a_suffix_is_recognised() -> None:
    with pytest.raises(ScenarioError, match=r"is called quickstart, without \.yaml"):
        load_scenario("quickstart.yaml")


KEYS = [
    "seed", "training.rounds", "training.head_lr", "fleet.0.count", "fleet.0.link.latency_ms",
    "stragglers.retry_s", "network.broker.per_message_us", "training.correction.lambda", "task.batch_size",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["3ms", "'7'", "many", "[1]", "{a: 1}", "-1", "null"])
def test_a_number_that_is_none_is_one_line(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        small_scenario(tmp_path, f"{key}={value}")
    assert key.rpartition(".")[0] in str(caught.value).splitlines()[0]


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.sampled_from(["", "deadline", "int8", "2g", "natural"])
)
NAMES = st.sampled_from(
    ["policy", "deadline", "codec", "kind", "name", "link", "flows", "0", "pattern", "trace", "file", "bits"]
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3)
)
SAYS_NOTHING = re.compile(r"must be (.+), not \1(;|$)", re.MULTILINE)
WHERE = st.sampled_from(
    ["task", "training", "flows", "flows.activations_up", "stragglers", "fleet", "fleet.0.link", "broker",
     "fleet.0.availability", "fleet.0.slowdown", "network", "task.partition"]
)  # fmt: skip


@settings(max_examples=40)
@given(WHERE, TREES)
def test_any_tree_is_a_scenario_or_a_mistake(
    tmp_path_factory: pytest.TempPathFactory, place: str, tree: object
) -> None:
    told = mistakes(tmp_path_factory.getbasetemp(), f"{place}={tree!r}".replace("None", "null"))
    assert not SAYS_NOTHING.search(told)


@settings(max_examples=40)
@given(st.lists(LEAVES | st.just([]) | st.just({}), max_size=3))
@example([])
def test_each_wrong_name_of_a_client_is_told_once(
    tmp_path_factory: pytest.TempPathFactory, names: list[object]
) -> None:
    setting = f"fleet=[{{names: {names!r}}}]".replace("None", "null")
    told = mistakes(tmp_path_factory.getbasetemp(), "training.cohort=1", setting)
    assert not SAYS_NOTHING.search(told)
    assert len(told.splitlines()) <= max(1, len(names))


def mistakes(folder: Path, *settings: str) -> str:
    """What is said about settings; empty when they make a scenario."""
    try:
        made = small_scenario(folder, *settings)
    except ScenarioError as error:
        return str(error)
    assert isinstance(made, Scenario)
    return ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mistakes")


def told_at(folder: Path, place: Place, value: object, name: str = "") -> str:
    """What is said about a key of the small scenario; empty for nothing."""
    (top, tree), *_ = place.tree(value, name).items()
    told = mistakes(folder, f"{top}={json.dumps(tree)}")
    path = ".".join((*place.path[:-1], name or place.name))
    return next((line for line in told.splitlines() if re.search(rf": {re.escape(path)}: ", line)), "")


# numbers with units

TIMES_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "sec": 1, "seconds": 1, "min": 60, "minutes": 60,
           "h": 3600, "hours": 3600, "d": 86400}  # fmt: skip
RATES_KBPS = {"bit/s": 1e-3, "kbps": 1, "kbit": 1, "kbit/s": 1, "Kbit": 1, "kb/s": 1, "Mbit": 1e3,
              "Mbps": 1e3, "mbit/s": 1e3, "Gbit/s": 1e6, "kB/s": 8, "MB/s": 8e3, "MByte/s": 8e3}  # fmt: skip
SIZES = {"B": 1, "bytes": 1, "kB": 1e3, "KB": 1e3, "KiB": 1024, "MB": 1e6}
FAMILIES: dict[str, tuple[dict[str, float], float]] = {  # by a key's ending: its units, and its own
    "s": (TIMES_S, 1), "ms": (TIMES_S, 1e-3), "us": (TIMES_S, 1e-6), "ns": (TIMES_S, 1e-9),
    "kbps": (RATES_KBPS, 1), "bytes": (SIZES, 1),
}  # fmt: skip
WITH_UNIT = [place for place in NUMBERS if place.name.rpartition("_")[2] in FAMILIES and "_" in place.name]
SHARES = [place for place in NUMBERS if place.schema["type"] == "number" and place not in WITH_UNIT]


def test_every_family_of_units_has_keys() -> None:
    assert {place.name.rpartition("_")[2] for place in WITH_UNIT} == set(FAMILIES)


@settings(max_examples=40)
@given(st.data(), st.sampled_from(WITH_UNIT), st.integers(1, 999), st.sampled_from(["", " "]))
def test_a_number_with_a_unit_is_told_in_that_of_its_key(
    folder: Path, data: st.DataObject, place: Place, number: int, space: str
) -> None:
    units, own = FAMILIES[place.name.rpartition("_")[2]]
    unit = data.draw(st.sampled_from(sorted(units)))
    right = number * units[unit] / own
    told = told_at(folder, place, f"{number}{space}{unit}")
    found = re.search(r"; write ([-+.e0-9]+)", told)
    if found is None:  # then that number would not do either
        assert told_at(folder, place, round(right) if right == round(right) else right)
        return
    assert float(found[1]) == pytest.approx(right, rel=1e-9)
    assert not told_at(folder, place, json.loads(found[1]))


@settings(max_examples=40)
@given(st.data(), st.sampled_from(WITH_UNIT), st.integers(1, 99))
def test_a_key_in_another_unit_is_told_with_the_number_in_its_own(
    folder: Path, data: st.DataObject, place: Place, number: int
) -> None:
    stem, _, ending = place.name.rpartition("_")
    units, own = FAMILIES[ending]
    unit = data.draw(st.sampled_from(sorted(set(units) - {ending})))
    told = told_at(folder, place, number, f"{stem}_{unit.replace('/', '_')}")
    found = re.search(rf"; write {place.name}: ([-+.e0-9]+);", told)
    assert found is not None, told
    assert float(found[1]) == pytest.approx(number * units[unit] / own, rel=1e-9)


@settings(max_examples=40)
@given(st.sampled_from(SHARES), st.integers(1, 40))
def test_a_share_in_percent_is_told_as_a_number(folder: Path, place: Place, percent: int) -> None:
    assert f"; write {percent / 100:g}" in told_at(folder, place, f"{percent}%")


@pytest.mark.parametrize("place", NUMBERS, ids=lambda place: ".".join(place.path))
def test_a_number_in_quotes_is_told_without(folder: Path, place: Place) -> None:
    number = 5000 if place.name == "packet_bytes" else 1 if place.schema["type"] == "integer" else 0.25
    assert told_at(folder, place, str(number)).endswith(f"; write {number} without quotes")


# names that are near


def words_of(place: Place) -> list[str]:
    members = [place.schema, *place.schema.get("oneOf", ())]
    words = [*place.schema.get("enum", ()), *(word for each in members for word in each.get("enum", ()))]
    return [word for word in words if re.fullmatch(r"[a-z0-9_-]+", word)]


NAMED = [(place, word) for place in PLACES for word in words_of(place)]


@settings(max_examples=40)
@given(st.sampled_from(NAMED), st.sampled_from([str.upper, str.title, lambda word: word.replace("_", "-")]))
def test_a_value_in_other_letters_is_recognised(folder: Path, named: tuple[Place, str], change: Any) -> None:
    place, word = named
    assume(change(word) != word)
    assert f"did you mean '{word}'?" in told_at(folder, place, change(word))


TAGGED = [
    (place, tag) for place in PLACES for tag in place.schema.get("discriminator", {}).get("mapping", ())
]


@settings(max_examples=40)
@given(st.sampled_from(TAGGED))
def test_a_name_where_a_mapping_is_expected_is_told_as_one(folder: Path, tagged: tuple[Place, str]) -> None:
    place, tag = tagged
    key = place.schema["discriminator"]["propertyName"]
    assert told_at(folder, place, tag).endswith(f"; write {{{key}: {tag}}}")
    assert f"did you mean '{tag}'?" in mistakes_in(folder, place, {key: tag.upper()})


def mistakes_in(folder: Path, place: Place, value: object) -> str:
    (top, tree), *_ = place.tree(value).items()
    return mistakes(folder, f"{top}={json.dumps(tree)}")


TOP = set(SCHEMA["properties"])
DEEP = [
    place for place in PLACES if len(place.path) > 1 and place.name not in TOP and "any" not in place.path
]


@settings(max_examples=40)
@given(st.sampled_from(DEEP))
def test_a_key_at_the_wrong_level_is_told_where_it_belongs(folder: Path, place: Place) -> None:
    told = mistakes(folder, f"{place.name}=1")
    (line,) = (line for line in told.splitlines() if f": {place.name}: unknown key" in line)
    paths = re.findall(r"'([a-z0-9_.]+)'", line.partition("allowed:")[0])
    assert paths
    known = {".".join(each.path) for each in PLACES}
    assert set(paths) <= known
    assert any(path.endswith(f".{place.name}") for path in paths)


# anything that a file may hold

UGLY = re.compile(
    r"Input should|union_tag|validation error|pydantic|\^\[|Traceback|NoneType|has no attribute|Field req"
    r"|literal_error|Extra inputs|valid dictionary|<lambda>|typing\."
)
LONGEST = 900


def check_sentences(told: str, most: int = 100) -> None:
    """Every line is one sentence: where, what is wrong, in words."""
    lines = told.splitlines()
    assert len(lines) <= most
    for line in lines:
        assert not UGLY.search(line), line
        assert not SAYS_NOTHING.search(line), line
        assert len(line) <= LONGEST, line
        assert line.isprintable(), line


ODD: st.SearchStrategy[Any] = st.sampled_from([
    "", " ", "5s", "10 MB", "1e3ms", "50%", "1Mbit", "yes", "no", "on", "1e-3", "a\nb", "\x1b[31m",
    "x" * 5000, "2024-01-01", "ünï", "{name}", "%s", "1,5", "-", "null", "~", "!!x", 0, -1, 1,
    2**70, 1.5, 1e400, -1e400,
    True, False, None, [], {}, [1], [[]], {"a": 1}, [{"count": 1}], {"codec": "pq"},
    {"policy": "deadline", "deadline": 4},
])  # fmt: skip


def mappings(tree: Any) -> list[dict[str, Any]]:
    below = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    own = [tree] if isinstance(tree, dict) and tree else []
    return own + [each for child in below for each in mappings(child)]


TASK = Path(__file__).parents[1] / "small_task.py"
WHOLE = f"""
name: whole
seed: 3
task: {{name: corners, module: {TASK}, partition: {{dirichlet_alpha: 1}}, batch_size: 10}}
training: {{method: split, rounds: 2, cohort: 3, head_lr: 0.3, tail_lr: 0.3, correction: {{lambda: 0.1}},
  aggregation: {{rule: trimmed_mean, fraction: 0.1}}}}
flows: {{activations_up: {{codec: pq, subvectors: 4, centroids: 4}},
  gradient_down: {{codec: codeword_mean, bits: 4}},
  head_update_up: {{codec: topk, fraction: 0.1}},
  by_link: [{{uplink_below_kbps: 100, head_update_up: {{codec: int4}}}}]}}
stragglers: {{policy: deadline, deadline_s: 4, minimum: 2}}
fleet:
- {{count: 4, device: raspberry-pi-4, link: {{uplink_kbps: 100, loss: 0.01, latency_ms: 5}}, via: home,
   availability: {{pattern: on_off, mean_on_s: 5, mean_off_s: 2}},
   slowdown: {{distribution: lognormal, sigma: 1}}}}
- {{names: [a, b], link: lte}}
broker: {{kind: mosquitto, packet_bytes: 5000}}
network: {{access_points: {{home: {{uplink_kbps: 5}}}}, broker: {{in_flight: 3}}, server: {{link: wifi}}}}
"""


@st.composite
def spoilt(draw: st.DrawFn) -> Any:
    """A scenario in which some things are changed."""
    tree = yaml.safe_load(WHOLE)
    for _ in range(draw(st.integers(1, 3))):
        around = draw(st.sampled_from(mappings(tree)))
        key = draw(st.sampled_from(sorted(around)))
        match draw(st.sampled_from(["drop", "value", "rename", "wrap", "move", "letters"])):
            case "drop":
                del around[key]
            case "value":
                around[key] = draw(ODD)
            case "rename":
                ending = draw(st.sampled_from(["s", "_s", "_mbps", "_percent", "_", "2", "_bytes", "\n", ""]))
                around[f"{key}{ending}"[draw(st.integers(0, 1)) :]] = around.pop(key)
            case "wrap":
                around[key] = draw(st.sampled_from([[around[key]], {key: around[key]}, str(around[key])]))
            case "move":
                value = around.pop(key)
                (draw(st.sampled_from(mappings(tree) or [tree])))[key] = value
            case "letters":
                around[draw(st.sampled_from([key.upper(), key.replace("_", "-"), key[::-1]]))] = around.pop(
                    key
                )
        if not mappings(tree):
            break
    return tree


def test_the_scenario_that_is_changed_is_one(folder: Path) -> None:
    (folder / "whole.yaml").write_text(WHOLE)
    assert load_scenario(folder / "whole.yaml").fleet_size == 6


@given(data=st.data())
def test_any_change_of_a_scenario_is_a_scenario_or_told_in_sentences(
    folder: Path, data: st.DataObject
) -> None:
    (folder / "spoilt.yaml").write_text(yaml.safe_dump(data.draw(spoilt()), allow_unicode=True))
    told = ""
    try:
        load_scenario(folder / "spoilt.yaml")
    except ScenarioError as error:
        told = str(error)
    check_sentences(told, most=30)
    assert all("spoilt.yaml" in line for line in told.splitlines())


@given(st.text(st.sampled_from("ab: -\n\t{}[],&*!|>'\"%@`#?x1.\\\x00\x85\u2028é"), max_size=40))
@example("a: &x {b: 1}\nc: {<<: [*x, 3]}")
def test_any_text_is_told_in_sentences(folder: Path, text: str) -> None:
    (folder / "text.yaml").write_bytes(text.encode())
    with pytest.raises(ScenarioError) as caught:
        load_scenario(folder / "text.yaml")
    check_sentences(str(caught.value))


@given(st.binary(max_size=30))
@example(b"\xff\xfe")
@example("name: x".encode("utf-16"))
def test_any_bytes_are_told_in_sentences(folder: Path, content: bytes) -> None:
    (folder / "bytes.yaml").write_bytes(content)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(folder / "bytes.yaml")
    check_sentences(str(caught.value))


@settings(max_examples=40)
@given(st.text(max_size=20), st.text(max_size=20))
@example("seed.x", "3")
@example("name", '"a\nb"')
def test_any_setting_is_told_in_sentences(folder: Path, key: str, value: str) -> None:
    check_sentences(mistakes(folder, f"{key}={value}"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_file_is_read_whatever_program_wrote_it(tmp_path: Path, encoding: str, ends: str) -> None:
    plain = small_scenario(tmp_path)
    text = dump_resolved(plain).replace("\n", ends)
    (tmp_path / "other.yaml").write_bytes(text.encode(encoding))
    assert load_scenario(tmp_path / "other.yaml") == plain


def test_a_mapping_takes_the_keys_of_a_marked_one(tmp_path: Path) -> None:
    flows = "{activations_up: &c {codec: topk, fraction: 0.1}, gradient_down: {<<: *c, fraction: 0.2}}"
    made = small_scenario(tmp_path, f"flows={flows}")
    assert made.flows.gradient_down == TopK(fraction=0.2)


def test_a_setting_below_a_value_is_named(tmp_path: Path) -> None:
    told = mistakes(tmp_path, "seed.x=3")
    assert told == "--set seed.x=3: seed: must be a whole number >= 0, not a mapping"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("quickstrat.yaml", "no such file: quickstrat.yaml; a shipped scenario is called quickstart"),
        (
            "./quickstart",
            "no such file: quickstart; the shipped scenario is called quickstart, without a folder",
        ),
        ("Quick Start", "unknown scenario 'Quick Start'; did you mean 'quickstart'? shipped: "),
        ("{folder}/smal.yaml", "no such file: {folder}/smal.yaml; did you mean {folder}/small.yaml?"),
        ("{folder}/", "a folder, not a file: {folder}"),
    ],
)
def test_a_file_that_is_not_there_is_told_with_the_nearest(tmp_path: Path, name: str, told: str) -> None:
    small_scenario(tmp_path)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(name.format(folder=tmp_path))
    assert str(caught.value).startswith(told.format(folder=tmp_path))
