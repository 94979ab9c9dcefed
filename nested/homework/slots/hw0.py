"""Slot hw0: find and correct the one line that stops the hypergradient."""

from __future__ import annotations

from nested.homework.slots.slot import Slot
from nested.homework.slots.unrolls import UNROLL_CHECKS, RemoteUnroll, serve_unroll

SLOT = Slot(
    name="hw0",
    file="hw0_one_detached_line.py",
    title="One detached line",
    serve=serve_unroll("unroll_by_hand"),
    subject=RemoteUnroll,
    checks=UNROLL_CHECKS,
    unroll=RemoteUnroll,
)
