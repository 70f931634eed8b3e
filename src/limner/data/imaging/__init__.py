"""From a file's bytes to pixels: decoding, colour, geometry. ``prepare`` is the door."""
