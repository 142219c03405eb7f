"""Scores and their uncertainty, as pure functions."""
