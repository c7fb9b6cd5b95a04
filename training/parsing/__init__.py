"""Constituency parsing as translation into linearised trees (section 6.3 of the paper; Vinyals et al. 2015)."""
