"""Presents the results of a study: tables, charts, reports, notes and the live view."""
