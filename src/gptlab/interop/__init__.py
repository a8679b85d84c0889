"""Models of other tools, in and out."""

from gptlab.interop.loading import load

__all__ = ["load"]
