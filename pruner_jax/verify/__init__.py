"""Rollout text to verdict: answers, the worker pool, programs."""
