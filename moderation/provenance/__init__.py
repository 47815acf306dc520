"""Content credentials (C2PA): which model drew an image, signed, in the image's own file."""
