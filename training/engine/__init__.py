"""The training loop and what it needs, for any task: checkpoints, schedules, run folder, trackers."""
