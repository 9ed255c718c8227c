"""Weighted rollouts to new parameters: packing, log-probs, loss, optimiser, step."""
