"""What lasts: run state, rollouts, reference statistics."""
