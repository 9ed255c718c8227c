"""The algebra: statistics, kernels, gates, advantages, selection, schedules."""
