"""Settings of every part, and the YAML files that hold them."""
