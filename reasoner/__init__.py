"""Answers questions over the tokens of a stretch with the language half."""
