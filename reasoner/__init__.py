"""Answers questions over the tokens of a stretch: the language half at work."""
