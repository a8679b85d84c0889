"""A closer look at tokenizers: what they make of a text, side by side."""
