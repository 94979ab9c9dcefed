"""Which parameters weight decay acts on.

Source: AdamW, Loshchilov and Hutter 2019 (arXiv 1711.05101); no decay on embeddings and norms, as
is usual.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

# decay would pull rates off their ends, and shrink what a memory starts with
NOT_DECAYED = ("rate", "embed", "shifts", "mixer.w1", "mixer.w2", "mixer.matrix")
PULLED_BACK = ("forgetting", "momentum")  # to their starts: nothing else keeps them small


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Sort the parameters of ``model`` into two groups for an optimizer: with ``weight_decay``, and
    without.

    Matrices decay, and so do the gates by which a memory forgets. Rates, embeddings, norms and the
    first weights W1, W2 and M of a block's mixer do not. The first weights of a continuum memory
    are matrices like those of a plain net, and decay. Raises ``ValueError`` unless ``weight_decay``
    is a finite number from 0.
    """
    if not isinstance(weight_decay, (int, float)) or not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay is a finite number from 0, but got {weight_decay!r}")
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[_decays(name, parameter)].append(parameter)
    return [
        {"params": groups[decays], "weight_decay": weight_decay * decays}
        for decays in (True, False)
        if groups[decays]
    ]


def _decays(name: str, parameter: nn.Parameter) -> bool:
    if any(part in name for part in NOT_DECAYED):
        return False
    return parameter.dim() > 1 or any(part in name for part in PULLED_BACK)
