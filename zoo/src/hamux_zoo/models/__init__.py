"""One file an architecture; `hamux_zoo` finds the ZooModel in each by itself."""
