"""What the targets of a task are, and how those of a batch become bytes: a kind for each sort of targets.

Where targets can often be shorter than their plain form, the plain form is the longest: a payload of its
length is plain, a shorter one is coded. docs/protocol.md has the bytes.
"""

from broker.codecs.targets.base import Output, Targets, Values
from broker.codecs.targets.classes import Labels, Tags
from broker.codecs.targets.numbers import Numbers, Probabilities, not_probabilities
from broker.codecs.targets.several import Several

__all__ = [
    "Labels",
    "Numbers",
    "Output",
    "Probabilities",
    "Several",
    "Tags",
    "Targets",
    "Values",
    "not_probabilities",
]
