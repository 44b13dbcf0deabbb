"""How a run executes: the loop, one step, ranks, checkpoints, the clock."""
