"""Architectures beside those of the library, and initialisation."""
