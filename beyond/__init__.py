"""What the tutorial asks, promises or leaves out. See README.md in this folder."""
