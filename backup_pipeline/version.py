"""Which version of the software this is; each manifest says which one made it."""

__version__ = "0.1.0"
