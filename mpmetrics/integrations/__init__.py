"""Hooks into servers. Only configuration files and applications import them."""
