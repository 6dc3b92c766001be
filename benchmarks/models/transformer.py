"""A decoder of two blocks that predicts the next of 20 words; position codes are a constant buffer.

1,390,354 parameters, nearly all of them in the tables of words before and after the blocks.
"""

import torch
from torch import Tensor, nn

from scenarios.models import next_word
from scenarios.models.next_word import CLASSES, LENGTH
from scenarios.task import Dataset
from scenarios.tasks import shakespeare

WIDTH, HEADS, BLOCKS = 64, 4, 2
classes, loss, score = CLASSES, next_word.loss, next_word.score


def codes() -> Tensor:
    """Give the sines and cosines of Vaswani et al. 2017 (arXiv 1706.03762), shape (20, 64)."""
    angles = torch.arange(LENGTH)[:, None] / 10_000 ** (torch.arange(0, WIDTH, 2) / WIDTH)
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)


class Decoder(nn.Module):
    """The whole network."""

    codes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, WIDTH)
        self.register_buffer("codes", codes(), persistent=False)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(BLOCKS)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        """Give a value for each word at each of 20 places."""
        mask = nn.Transformer.generate_square_subsequent_mask(words.shape[1], device=words.device)
        states = self.embedding(words) + self.codes
        for block in self.blocks:
            states = block(states, src_mask=mask, is_causal=True)
        outputs: Tensor = self.out(self.norm(states))
        return outputs


build = Decoder


def data() -> Dataset:
    """Read the plays; speakers are the owners."""
    return shakespeare.task(None).load()
