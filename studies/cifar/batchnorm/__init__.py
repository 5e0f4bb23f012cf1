"""Measures batch normalization in variants whose accuracy collapses; run as a module."""
