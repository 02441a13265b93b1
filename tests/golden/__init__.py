"""Tests against arrays recorded from the original code; what is small and photo-free lies in `data`."""

from pathlib import Path

DATA = Path(__file__).parent / "data"
