"""Watching a model at work: what it was asked, and whether that has changed."""
