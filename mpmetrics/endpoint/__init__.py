"""The metrics as a web application, in a process or a thread of its own."""
