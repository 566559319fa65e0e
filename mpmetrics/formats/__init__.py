"""What goes out as bytes: text formats, their negotiation and compression."""
