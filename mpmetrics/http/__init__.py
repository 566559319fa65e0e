"""An HTTP server for one small application: it knows no metrics."""
