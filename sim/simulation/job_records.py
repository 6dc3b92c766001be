"""The records of jobs, see sim.simulation.job_log: a result with the length of each tensor in its place."""

import msgspec

Content = bytes | int | tuple[bytes]
"""The bytes of a tensor, or their number; of a head of which devices get parts, its hollow form, deflated."""


class _Record(msgspec.Struct, array_like=True, gc=False):
    """Base of all records; the fields are those of the results."""


class BatchSent(_Record, tag=0):
    """Of Activations."""

    server: int
    round: int
    step: int
    count: int
    payload: Content
    targets: Content


class UpdateSent(_Record, tag=1):
    """Of HeadUpdate."""

    server: int
    round: int
    samples: int
    quantization_error: float
    payload: Content
    batches: list[tuple[int, Content, Content]] = []


class RefusedIt(_Record, tag=2):
    """Of WireError."""

    reason: str
    detail: str


class Encoded(_Record, tag=3):
    """Of HeadEncoded."""

    head: Content
    parts: dict[str, Content] = {}


class ChangesSent(_Record, tag=15):
    """Of ChangesEncoded."""

    heads: dict[str, Content]


class GradientSent(_Record, tag=4):
    """Part of Stepped: a client's gradient and lambda."""

    payload: Content
    correction: float


class Stepped(_Record, tag=5):
    """Of TailStepped."""

    gradients: dict[str, GradientSent | RefusedIt]
    loss_sum: float
    samples: int


class Updated(_Record, tag=6):
    """Of None."""


class Closed(_Record, tag=7):
    """Of RoundClosed."""

    head: Content
    metric: float | None
    refused: dict[str, RefusedIt]
    parts: dict[str, Content] = {}


class Lost(_Record, tag=8):
    """Of Diverged."""

    why: str


class ScoreSum(_Record, tag=9):
    """Part of ScoredAll: a client's."""

    score_sum: float
    samples: int


class ScoredAll(_Record, tag=10):
    """Of Scored."""

    scores: dict[str, ScoreSum | RefusedIt]
    metric: float | None


class FeatureGradientSent(_Record, tag=11):
    """Of FeatureGradient."""

    server: int
    round: int
    step: int
    count: int
    payload: Content
    loss: float


class FeaturesSent(_Record, tag=12):
    """Part of Forwarded: a client's features."""

    payload: Content


class ScoresSent(_Record, tag=14):
    """Of Scores."""

    server: int
    round: int
    step: int
    count: int
    score_sum: float


class Forwarded(_Record, tag=13):
    """Of TailForwarded."""

    features: dict[str, FeaturesSent | RefusedIt]


Record = (
    BatchSent
    | UpdateSent
    | RefusedIt
    | Encoded
    | ChangesSent
    | Stepped
    | Updated
    | Closed
    | Lost
    | ScoredAll
    | FeatureGradientSent
    | Forwarded
    | ScoresSent
)
