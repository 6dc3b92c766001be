"""Any model is cut in two at a layer that is named; both parts together are the whole."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scenarios.cutting.cut import Cut, CutError
from scenarios.cutting.finding import find_cut
from scenarios.cutting.possible import possible_cuts
from scenarios.seeded import seeded
from scenarios.training import head_vector, load_head_vector
from tests.cutting.nets import (
    Around,
    Encoder,
    Lazy,
    Looks,
    Recurrent,
    ResNet,
    Tied,
    Transformer,
    images,
    words,
)

Build = Callable[[], nn.Module]


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))


def check(build: Build, layer: str, inputs: Tensor) -> Cut:
    """Outputs and all gradients of head and tail together are those of the whole model."""
    torch.manual_seed(0)
    model = build()
    model(inputs)  # lazy layers
    cut = find_cut(build, layer, inputs)
    head, tail = cut.head(), cut.tail()
    state = model.state_dict()
    for part in (head, tail):
        own = {name: state[name.removeprefix("model.")] for name in part.state_dict()}
        part.load_state_dict(own)
    torch.testing.assert_close(tail(head(inputs)), outputs := model(inputs))

    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2))
    (outputs * weights).sum().backward()
    z = head(inputs)
    assert z.shape == (len(inputs), cut.layout.size)
    assert z.dtype == torch.float32
    (tail(z) * weights).sum().backward()
    whole = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    parts = {
        name.removeprefix("model."): value.grad
        for part in (head, tail)
        for name, value in part.named_parameters()
        if value.grad is not None
    }
    assert parts.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-5)
    return cut


@pytest.mark.parametrize(
    ("build", "layer", "inputs", "shape"),
    [
        pytest.param(plain, "2", torch.randn(4, 8), (6,), id="sequential"),
        pytest.param(ResNet, "maxpool", images(), (6, 6, 4), id="resnet, early: channels last"),
        pytest.param(ResNet, "layer1", images(), (6, 6, 4), id="resnet"),
        pytest.param(ResNet, "layer2.0", images(), (3, 3, 8), id="resnet, within a layer"),
        pytest.param(ResNet, "relu", images(), (12, 12, 4), id="relu that is called once"),
        pytest.param(ResNet, "avgpool", images(), (1, 1, 8), id="resnet, late"),
        pytest.param(Transformer, "embedding", words(), (12, 16), id="mask and positions before and after"),
        pytest.param(Transformer, "blocks.0", words(), (12, 16), id="transformer"),
        pytest.param(Encoder, "encoder.layers.0", words(), (13, 16), id="samples second"),
        pytest.param(Recurrent, "first", words(), (12, 16), id="lstm"),
        pytest.param(lambda: Recurrent(last=True), "second", words(), (1, 16), id="an lstm's last state"),
        pytest.param(Lazy, "norm", images(), (142, 6), id="lazy, channels of one dimension"),
        pytest.param(Around, "outer", images(), (12, 12, 4), id="before a skip connection"),
        pytest.param(Looks, "inner", images(), None, id="looks at values"),
        pytest.param(Around, "inner", images(), None, id="within a skip connection"),
    ],
)
def test_both_parts_are_the_whole(
    build: Build, layer: str, inputs: Tensor, shape: tuple[int, ...] | None
) -> None:
    if shape is None:
        with pytest.raises(CutError):
            find_cut(build, layer, inputs)
    else:
        assert check(build, layer, inputs).layout.cut_shape == shape


@pytest.mark.parametrize(
    ("build", "layer", "inputs", "told"),
    [
        (ResNet, "layer3", images(), "no layer 'layer3'; layers, the nearest name first: layer1, layer2, "),
        (ResNet, "", images(), "no layer ''; layers, the nearest name first: "),
        (
            Around,
            "inner",
            images(),
            "a value from before 'inner' is used after it, too (in cat), as by a skip connection or a mask",
        ),
        (
            Tied,
            "inner",
            words(),
            "embedding.weight is used before and after 'inner', but devices train the head, the server the",
        ),
        (
            Looks,
            "inner",
            images(),
            "what comes before 'inner' must not look at values outside of layers: the server has none",
        ),
        (
            Transformer,
            "blocks",
            words(),
            "'blocks' is not called itself when a batch goes through; name a layer that is called once",
        ),
        (
            ResNet,
            "layer1.0.relu",
            images(),
            "'layer1.0.relu' is called 2 times when a batch goes through; name a layer that is called once",
        ),
        (
            ResNet,
            "conv1",
            words(),
            "fails, given inputs of shape (3, 12): RuntimeError: Expected 3D (unbatched) or 4D (batched)",
        ),
        (lambda: "no model", "conv1", words(), "gives a str, it must give a torch.nn.Module"),
    ],
)
def test_what_cannot_be_cut_is_told(build: Build, layer: str, inputs: Tensor, told: str) -> None:
    with pytest.raises(CutError) as caught:
        find_cut(build, layer, inputs)
    assert str(caught.value).startswith(told)


def test_cuts_are_listed_with_what_they_cost() -> None:
    found = [(cut.layer, cut.size, cut.head_parameters) for cut in possible_cuts(ResNet, images())]
    assert found == [
        ("conv1", 576, 36),
        ("relu", 576, 44),
        ("maxpool", 144, 44),
        ("layer1.0", 144, 348),
        ("layer1", 144, 652),
        ("layer2.0", 72, 1596),
        ("layer2", 72, 2780),
        ("avgpool", 8, 2780),
    ]


def test_each_side_holds_its_own_parameters_only() -> None:
    cut = find_cut(Transformer, "blocks.0", words())
    parts = [
        {name.removeprefix("model.") for name, _ in part.named_parameters()}
        for part in (cut.head(), cut.tail())
    ]
    assert parts[0] & parts[1] == set()
    assert parts[0] | parts[1] == {name for name, _ in Transformer().named_parameters()}
    assert all(name.startswith(("embedding", "blocks.0")) for name in parts[0])


def test_a_frozen_weight_may_be_on_both_sides() -> None:
    def build() -> nn.Module:
        model = Tied()
        model.embedding.weight.requires_grad_(False)
        return model

    check(build, "inner", words())


def test_what_is_drawn_on_the_way_is_drawn_again_alike() -> None:
    """Dropout before the cut costs the tail no draws and needs none of the head's."""

    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.dropout(self.a(x), 0.5, self.training)
            x = self.b(x + torch.bernoulli(torch.sigmoid(x)) + 0.1 * torch.randn_like(x))
            outputs: Tensor = self.out(nn.functional.dropout(x, 0.5, self.training))
            return outputs

    cut = find_cut(Drops, "b", torch.randn(3, 8))
    tail = cut.tail().train()
    z = torch.randn(5, 8)
    outputs = []
    for _ in range(2):
        with seeded(3):
            outputs.append(tail(z))
    assert torch.equal(*outputs)


def test_any_number_of_rows_goes_through() -> None:
    cut = find_cut(ResNet, "layer1", images(1))
    head, tail = cut.head().eval(), cut.tail().eval()
    assert [len(tail(head(images(count)))) for count in (1, 2, 7)] == [1, 2, 7]


# generated models


class Branched(nn.Module):
    """Layers one after the other; a layer may be one of several branches that are added up."""

    def __init__(self, layers: list[nn.Module | list[nn.Module]]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.ModuleList(layer) if isinstance(layer, list) else layer for layer in layers
        )
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = sum(branch(x) for branch in step) if isinstance(step, nn.ModuleList) else step(x)
        outputs: Tensor = self.out(x.flatten(1)[:, :6])
        return outputs


LAYERS: dict[str, Build] = {
    "linear": lambda: nn.Linear(6, 6),
    "norm": lambda: nn.LayerNorm(6),
    "batch norm": lambda: nn.BatchNorm1d(6),
    "relu": nn.ReLU,
    "two": lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 6)),
    "none": nn.Identity,
}
layer_names = st.sampled_from(sorted(LAYERS))


@settings(max_examples=40)
@given(
    kinds=st.lists(layer_names | st.lists(layer_names, min_size=2, max_size=3), min_size=1, max_size=5),
    place=st.integers(0, 20),
)
def test_generated_models_are_cut_or_refused(kinds: list[str | list[str]], place: int) -> None:
    def build() -> nn.Module:
        return Branched(
            [LAYERS[kind]() if isinstance(kind, str) else [LAYERS[each]() for each in kind] for kind in kinds]
        )

    inputs = torch.randn((4, 6), generator=torch.Generator().manual_seed(3))
    names = [name for name, _ in build().named_modules() if name and name != "out"]
    layer = names[place % len(names)]
    step = layer.split(".")[1] if layer != "steps" else None
    try:
        cut = check(build, layer, inputs)
    except CutError:
        assert step is None or isinstance(kinds[int(step)], list)  # a chain is cut anywhere
        return
    head = cut.head()
    vector = np.arange(head_vector(head).size, dtype=np.float32)  # counters are whole numbers
    load_head_vector(head, vector)
    np.testing.assert_array_equal(head_vector(head), vector)


@pytest.mark.parametrize(
    ("build", "first", "second", "inputs"),
    [
        pytest.param(ResNet, "layer1", "layer2", images(), id="a residual network"),
        pytest.param(Transformer, "blocks.0", "blocks.1", words(), id="a transformer"),
        pytest.param(Recurrent, "first", "second", words(), id="an LSTM"),
        pytest.param(plain, "0", "3", torch.randn(3, 8), id="a sequence"),
    ],
)
def test_what_comes_before_a_cut_can_be_cut_again(
    build: Build, first: str, second: str, inputs: Tensor
) -> None:
    last = find_cut(build, second, inputs)
    check(last.head, f"model.{first}", inputs)
