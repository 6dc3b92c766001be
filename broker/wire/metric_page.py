"""The one page for whoever watches that devices read, too: how good the model is by now.

Nothing of the training depends on it, so a device goes on when a broker keeps it from reading the page.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from broker.wire.errors import WireError

PAGE = "metric"
"""Its name, see topics.watch."""

MAX_BYTES = 256


class MetricPage(msgspec.Struct, frozen=True):
    """watch/metric: the last evaluation, as JSON.

    Attributes:
        round: after which the model was evaluated.
        name: of the metric.
        metric: its value.
        best: the best value so far.
    """

    round: Annotated[int, Meta(ge=0, le=2**53)]
    name: Annotated[str, Meta(max_length=24, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
    metric: float
    best: float


_decoder = msgspec.json.Decoder(MetricPage)


def decode(content: bytes) -> MetricPage:
    """Read the page, which may come from anybody.

    Raises:
        WireError: "watch", when it is none.
    """
    if len(content) > MAX_BYTES:
        raise WireError("watch", f"a page of {len(content)} bytes, at most {MAX_BYTES} are read")
    try:
        return _decoder.decode(content)
    except msgspec.DecodeError as error:
        raise WireError("watch", f"page {PAGE}: {error}") from error
