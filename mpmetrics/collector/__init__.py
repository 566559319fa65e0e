"""Reading a store: a consistent snapshot of all processes' words, their merge, and the figures about it."""
