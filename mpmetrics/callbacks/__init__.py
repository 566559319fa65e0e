"""Callbacks of asynchronous instruments: which there are, how they are run, and how workers are asked to run theirs."""
