"""Families of inner problems, with their data."""

from nested.tasks.digits import Digits
from nested.tasks.family import Task, TaskFamily
from nested.tasks.quadratics import Quadratics
from nested.tasks.sum_regression import SumRegression

FAMILIES = {"digits": Digits, "quadratics": Quadratics, "sum": SumRegression}

__all__ = ["FAMILIES", "Digits", "Quadratics", "SumRegression", "Task", "TaskFamily"]
