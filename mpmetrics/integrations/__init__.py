"""Hooks into servers. Nothing imports these but applications' configuration."""
