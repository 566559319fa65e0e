"""Text formats, their negotiation and compression."""
