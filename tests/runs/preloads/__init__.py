"""Modules that a template must not import."""
