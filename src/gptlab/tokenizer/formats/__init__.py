"""What a byte-level BPE is, and the files that say so."""
