"""Names of metrics and labels, attributes and units: checks and translations. No input or output."""
