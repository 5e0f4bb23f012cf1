"""Where images come from, and how they become arrays of one size."""
