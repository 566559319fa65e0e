"""An HTTP server for one small application. It knows no metrics."""
