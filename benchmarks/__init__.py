"""Measurements behind the documented figures. Not part of the wheel."""
