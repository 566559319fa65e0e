"""Bytes out: the text formats, content negotiation, the HTTP application, its server, the collector process."""
