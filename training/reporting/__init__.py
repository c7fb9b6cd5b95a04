"""Pages and plots of runs."""

# What a curve can run over.
AXES = ("updates", "time")
