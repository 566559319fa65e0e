"""Certificates and credentials, and the files that hold them."""
