"""The command line: the parser, the options that commands share, completion."""
