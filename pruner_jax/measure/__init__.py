"""Evaluation and its statistics."""
