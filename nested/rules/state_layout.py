"""Where a rule's state is kept in a ``torch.optim`` optimizer: with a weight, or with a group.

``UpdateRule.init`` returns one nested state for all weights of a group. A rule keeps what belongs
to one weight in dicts keyed by the weights' names. So a tensor below such a key goes to the state
of that weight. The group shares every other tensor, such as a step count.
Source: the conventions of ``torch.optim``.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import MappingKey, TreeSpec, tree_flatten_with_path

from nested.levels.forward import State
from nested.rules.pieces import gathered, split


class Piece(NamedTuple):
    """One tensor that the rule sees: a whole parameter, or one matrix of a stack."""

    owner: Tensor  # the parameter
    whole: Tensor  # all of the parameter, see ``gathered``
    weight: Tensor  # what the rule sees, a view of ``whole``
    suffix: str  # of this piece's keys in the state of the parameter


class Address(NamedTuple):
    """Where one tensor of a rule's state belongs."""

    name: str | None  # of the piece that owns it; None if the group shares it
    key: str


class Layout(NamedTuple):
    """The addresses of a nested state's tensors, and the nesting to rebuild it with."""

    addresses: list[Address]
    spec: TreeSpec


def pieces_of(group: Mapping[str, Any], params: Iterable[Tensor]) -> dict[str, Piece]:
    """Cut ``params`` (...) of a ``group`` into the pieces that the rule sees, by name.

    The first parameter of the group is "weight 0". Matrices of a stack are "weight 0.0" and so on.
    """
    numbers, pieces = {p: i for i, p in enumerate(group["params"])}, {}
    for p in params:
        whole = gathered(p)
        parts = split(whole, group["matrices"])
        for j, part in enumerate(parts):
            suffix = f".{j}" if len(parts) > 1 else ""
            pieces[f"weight {numbers[p]}{suffix}"] = Piece(p, whole, part, suffix)
    return pieces


def layout_of(state: State, names: Container[str]) -> tuple[Layout, list[Tensor]]:
    """Return the layout of a rule's ``state`` for pieces of these ``names``, and its tensors (...)
    in the order of the layout."""
    leaves, spec = tree_flatten_with_path(state)
    addresses = [_address(path, names) for path, _ in leaves]
    return Layout(addresses, spec), [leaf for _, leaf in leaves]


def slots_of(
    layout: Layout,
    pieces: Mapping[str, Piece],
    states: Mapping[Tensor, dict[str, Any]],
    shared: dict[str, Any],
) -> list[tuple[dict[str, Any], str]]:
    """Return for each tensor (...) of a layout the dict that holds it, and its key there.

    ``states`` is ``optimizer.state``, and ``shared`` the dict that a group shares.
    """
    slots = []
    for name, key in layout.addresses:
        if name is None:
            slots.append((shared, key))
        else:
            slots.append((states[pieces[name].owner], key + pieces[name].suffix))
    return slots


def _address(path: tuple[Any, ...], names: Container[str]) -> Address:
    owners = [step.key for step in path if isinstance(step, MappingKey) and step.key in names]
    name = owners[-1] if owners else None
    steps = [str(getattr(step, "key", getattr(step, "idx", step))) for step in path]
    return Address(name, "/".join(step for step in steps if step != name))
