"""The command line: arguments in, one library call, a sentence out."""
