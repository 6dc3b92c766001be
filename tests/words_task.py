"""A user's own task whose head begins with an embedding: which of four topics a few words are of."""

import torch
from torch import Tensor, nn

from scenarios.task import Dataset, Split, Task
from tests.small_task import loss, score

WORDS = 200
TOPICS = 4


def texts(count: int, seed: int) -> Split:
    """Make texts of five words: word w is of topic w mod 4, and one word in five of any."""
    generator = torch.Generator().manual_seed(seed)
    topics = torch.randint(0, TOPICS, (count,), generator=generator)
    words = TOPICS * torch.randint(0, WORDS // TOPICS, (count, 5), generator=generator) + topics[:, None]
    words[:, 0] = torch.randint(0, WORDS, (count,), generator=generator)
    return Split(words, topics)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(WORDS, 16, mode="sum")
        self.dense = nn.Linear(16, 16)

    def forward(self, words: Tensor) -> Tensor:
        z: Tensor = self.dense(self.words(words)).relu()
        return z


def task() -> Task:
    return Task(
        name="words",
        metric="accuracy",
        classes=TOPICS,
        target_shape=(),
        cut_shape=(16,),
        head=Head,
        tail=lambda: nn.Linear(16, TOPICS),
        loss=loss,
        score=score,
        load=lambda: Dataset(texts(200, 1), texts(100, 2)),
    )
