"""Trained models at work on whole data sets."""
