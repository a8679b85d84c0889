"""The commands: each parses its flags, builds what it needs, and calls the library."""
