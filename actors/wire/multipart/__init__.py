"""Multipart bodies, read and written as streams."""
