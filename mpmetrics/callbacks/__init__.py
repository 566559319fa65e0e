"""Callbacks of observable instruments: registration, order, deadlines, and what they report."""
