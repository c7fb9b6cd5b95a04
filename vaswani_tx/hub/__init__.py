"""Checkpoints that travel: saving with code, pushing to the Hub, model cards."""
