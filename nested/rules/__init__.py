"""More rules for level 4, and optimizers made of them."""

from nested.rules.coordinatewise import CoordinatewiseRule

__all__ = ["CoordinatewiseRule"]
