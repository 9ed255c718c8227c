"""Rollout text to verdict: answers, the worker pool, programs.

Reading order: `options`, `answers` (where the answer stands in a response), `outcome` (what a
checker may return), `checkers/` (one file per checker), `adapters` (reward functions of TRL and
verl), `worker` (the child process), `process` (its handle), `pool` (`Verifier`: all of them, with
deadlines), `grade` (Rollouts to Graded). Nothing here imports JAX, and math-verify, sympy and the
sandbox are only ever imported in the workers.
"""
