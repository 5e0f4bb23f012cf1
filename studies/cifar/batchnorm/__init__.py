"""What batch normalization does in the variants whose accuracy collapses; run as a module."""
