"""The collector: a consistent snapshot of the words of all processes, their merge, callbacks, and self-metrics."""
