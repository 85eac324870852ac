"""Compresses frames to tokens and fuses questions with them: the vision half at work."""
