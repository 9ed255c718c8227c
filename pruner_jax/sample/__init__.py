"""Prompts to rollouts: pick a token, prefill, fork, decode, refill."""
