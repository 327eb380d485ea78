"""The items feature; a second resource copies the shape of this folder."""
