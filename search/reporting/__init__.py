"""What a study has found, for readers: tables, charts, pages, notes, the live view."""
