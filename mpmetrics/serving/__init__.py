"""Worker callbacks: the part of a worker that answers collectors, and how a collector asks it."""
