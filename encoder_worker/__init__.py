"""Compresses frames to tokens and fuses questions with them: runs the vision half."""
