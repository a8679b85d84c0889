"""How text is cut into chunks, the pieces that merges work on."""
