"""Recipes and settings: the keys of every command, read from YAML and flags."""
