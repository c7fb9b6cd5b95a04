"""How models are made: data, batches, loops and measurements around `vaswani_tx` (not part of the wheel)."""
