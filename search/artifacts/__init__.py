"""Bytes by name in a folder or a bucket; which files of a study are kept."""
