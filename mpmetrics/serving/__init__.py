"""The part of a worker that answers the collector, and what it says of itself."""
