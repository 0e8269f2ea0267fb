"""The course machinery: build, run, record, check, verify and doctor. It knows lessons, not the science inside them.

Only the standard library is imported here, so that ``python -m coursekit doctor`` works in a broken environment.
"""

from . import check
from .recording import record

__all__ = ["check", "record"]
