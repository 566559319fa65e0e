"""Names of metrics and labels, attributes and units: what is allowed, and what becomes of them. Pure functions."""
