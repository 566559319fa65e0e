"""The metrics as a web application, and the process or thread that serves it."""
