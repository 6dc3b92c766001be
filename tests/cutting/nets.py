"""Models as people write them; nothing in them knows that they will be cut."""

import torch
from torch import Tensor, nn

WORDS, LENGTH, WIDTH, CLASSES = 30, 12, 16, 5


def images(count: int = 3) -> Tensor:
    return torch.randn((count, 1, 12, 12), generator=torch.Generator().manual_seed(1))


def words(count: int = 3) -> Tensor:
    return torch.randint(0, WORDS, (count, LENGTH), generator=torch.Generator().manual_seed(1))


class Block(nn.Module):
    """As in torchvision's resnet.py."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        relu: Tensor = self.relu(out)
        return relu


class ResNet(nn.Module):
    """As in torchvision's resnet.py, smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(2)
        self.layer1 = nn.Sequential(Block(4, 4, 1), Block(4, 4, 1))
        self.layer2 = nn.Sequential(Block(4, 8, 2), Block(8, 8, 1))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        outputs: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return outputs


class Transformer(nn.Module):
    """Decoder of next words; position codes in a buffer, a causal mask that all blocks share."""

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.register_buffer("positions", torch.randn(LENGTH, WIDTH))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 2, 24, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.out = nn.Linear(WIDTH, WORDS)

    def forward(self, index: Tensor) -> Tensor:
        _, length = index.size()
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=index.device)
        x = self.embedding(index) + self.positions[torch.arange(length, device=index.device)]
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        outputs: Tensor = self.out(self.norm(x))
        return outputs


class Encoder(nn.Module):
    """A class for each text, through torch's own stack of layers, samples second as is its default."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, index: Tensor) -> Tensor:
        x = self.embedding(index).transpose(0, 1)
        x = torch.cat([self.cls.expand(-1, x.shape[1], -1), x])
        outputs: Tensor = self.out(self.encoder(x)[0])
        return outputs


class Recurrent(nn.Module):
    """An LSTM whose outputs, or last state, go on."""

    def __init__(self, *, last: bool = False) -> None:
        super().__init__()
        self.last = last
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.first = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.second = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, index: Tensor) -> Tensor:
        start = torch.zeros(1, index.size(0), WIDTH, device=index.device)
        states, _ = self.first(self.embedding(index), (start, start))
        states, (hidden, _) = self.second(states)
        outputs: Tensor = self.out(hidden[-1] if self.last else states[:, -1])
        return outputs


class Around(nn.Module):
    """A skip connection around `inner`."""

    def __init__(self) -> None:
        super().__init__()
        self.outer, self.inner = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        outer = self.outer(x).relu()
        both = torch.cat([outer, self.inner(outer).relu()], 1)
        outputs: Tensor = self.out(both.mean((2, 3)))
        return outputs


class Tied(nn.Module):
    """Input and output words share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WORDS, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, index: Tensor) -> Tensor:
        outputs: Tensor = self.out(self.inner(self.embedding(index)).relu())
        return outputs


class Lazy(nn.Module):
    """Layers that learn their sizes from the first batch; a Conv1d, whose channels come second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.LazyConv1d(6, 3)
        self.norm = nn.LazyBatchNorm1d()
        self.out = nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x.flatten(2))).relu()
        outputs: Tensor = self.out(x.flatten(1))
        return outputs


class Looks(nn.Module):
    """Looks at values on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(144, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if x.abs().max() > 1:
            x = x / x.abs().max()
        outputs: Tensor = self.out(self.inner(x))
        return outputs
