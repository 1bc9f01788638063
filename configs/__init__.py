"""YAML configurations and published reference figures, shipped as package data."""
