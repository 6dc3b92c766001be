"""The device's side of the cut: activations to a payload, and a gradient's payload to the corrected gradient.

Letters as in the paper: z activations at the cut, shape (n, d); z~ the same after the codec, which is
all that leaves the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from broker.codecs import codec_from_wire, decode_gradient, encode_activations, gradient_codec_from_wire
from broker.wire.errors import WireError
from broker.wire.fields import CodecSpecs
from broker.wire.messages import Gradient


class DeviceCut:
    """What crosses the cut in a round.

    Attributes:
        energy: sum of ||z||^2 so far in the round.
        error_energy: sum of ||z - z~||^2 so far in the round.

    Args:
        codecs: of the round.

    Raises:
        WireError: there is no such codec.
    """

    def __init__(self, codecs: CodecSpecs) -> None:
        self._codec = codec_from_wire(codecs[0])
        self._gradient_codec = gradient_codec_from_wire(codecs[1], self._codec)
        self.error_energy = self.energy = 0.0

    def encode(self, z: npt.NDArray[np.float32], rng: np.random.Generator) -> bytes:
        """Give the payload of activations; WireError if they are not finite."""
        with own_values("activations"):
            payload, arrives, self.codewords = encode_activations(self._codec, z, rng)
        self._residual: npt.NDArray[np.float32] = z - arrives
        self.energy += float(np.vdot(z, z))
        self.error_energy += float(np.vdot(self._residual, self._residual))
        return payload

    def arrives(self, z: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Give z~ of the batch that was encoded last, to within the last digit; z is what was encoded."""
        return z - self._residual

    def decode(self, gradient: Gradient) -> npt.NDArray[np.float32]:
        """Give the gradient at z of the batch that was encoded last; WireError if it cannot be used."""
        n, d = self._residual.shape
        return decode_gradient(self._gradient_codec, gradient.payload, self.codewords, n, d)

    def correct(self, gradient: npt.NDArray[np.float32], correction: float) -> npt.NDArray[np.float32]:
        """Give FedLite's corrected gradient of that batch; see `corrected`."""
        return corrected(gradient, self._residual, correction)

    @property
    def quantization_error(self) -> float:
        """||z - z~||^2 / ||z||^2 over the round's batches so far."""
        return self.error_energy / max(self.energy, 1e-30)


@contextmanager
def own_values(what: str) -> Iterator[None]:
    """Turn the codec's refusal of values into a WireError: the device gives up its round, and lives on."""
    try:
        yield
    except ValueError as error:
        why = f"the {what} of this device: {error} (NaN in its data, or a learning rate that is too high)"
        raise WireError("not-finite", why) from error


def corrected(
    gradient: npt.NDArray[np.float32], residual: npt.NDArray[np.float32], correction: float
) -> npt.NDArray[np.float32]:
    """Give FedLite's corrected gradient, dh/dz~ + lambda (z - z~).

    It is the gradient at z of h(z~) + lambda/2 ||z - stopgrad(z~)||^2 with the straight-through
    dz~/dz = 1 (arXiv 2201.11865). `gradient` is that of the *mean* loss over the batch while the
    penalty is a sum over it: lambda has that scale.

    Args:
        gradient: dh/dz~, shape (n, d).
        residual: z - z~, shape (n, d).
        correction: lambda.
    """
    return gradient if correction == 0.0 else gradient + np.float32(correction) * residual
