"""How tensors become bytes: a codec for each of the four flows.

A codec is a frozen dataclass with `encode`, `decode` and `size_bytes`, see `Codec`; `TensorCodec` is the list
of all. Gradients may have `CodewordMean` too, which uses the codewords of their activations. In messages a
codec is its name and its parameters.
"""

from broker.codecs.base import ClusteringCodec, Codec, Codewords
from broker.codecs.coded_pq import CodedPq
from broker.codecs.codeword_gradient import (
    CodewordMean,
    GradientCodec,
    clustering,
    decode_activations,
    decode_gradient,
    decode_update,
    encode_activations,
    encode_gradient,
    gradient_bytes,
)
from broker.codecs.floats import Float16, Float32
from broker.codecs.heads.low_rank import LowRank
from broker.codecs.heads.touched_rows import TouchedRows
from broker.codecs.pq import Pq
from broker.codecs.published.c3 import C3
from broker.codecs.published.nsc import Nsc
from broker.codecs.published.sl_fac import SlFac
from broker.codecs.published.splitfc import SplitFc
from broker.codecs.registry import (
    CLUSTERING_CODECS,
    CODECS,
    TensorCodec,
    codec_from_wire,
    codec_to_wire,
    gradient_codec_from_wire,
)
from broker.codecs.sample_mean import SampleMean
from broker.codecs.stochastic_int import Int2, Int4, Int8
from broker.codecs.topk import RandomTopK, TopK

__all__ = [
    "C3",
    "CLUSTERING_CODECS",
    "CODECS",
    "ClusteringCodec",
    "Codec",
    "CodedPq",
    "CodewordMean",
    "Codewords",
    "Float16",
    "Float32",
    "GradientCodec",
    "Int2",
    "Int4",
    "Int8",
    "LowRank",
    "Nsc",
    "Pq",
    "RandomTopK",
    "SampleMean",
    "SlFac",
    "SplitFc",
    "TensorCodec",
    "TopK",
    "TouchedRows",
    "clustering",
    "codec_from_wire",
    "codec_to_wire",
    "decode_activations",
    "decode_gradient",
    "decode_update",
    "encode_activations",
    "encode_gradient",
    "gradient_bytes",
    "gradient_codec_from_wire",
]
