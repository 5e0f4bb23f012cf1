"""Sources of images, and their conversion to arrays of one size."""
