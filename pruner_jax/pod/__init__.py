"""Many hosts, and TPU slices that are not there yet: start-up, agreement, preemption, plans."""
