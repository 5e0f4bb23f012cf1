"""The command line: parser, shared options and completion."""
