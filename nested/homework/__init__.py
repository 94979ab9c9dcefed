"""Homework that is graded by properties: ``python -m nested.homework``."""
