"""The course machinery: build, run, record, check, verify and doctor. It knows lessons, not the science inside them.

Only the standard library is imported here, so that ``python -m coursekit doctor`` works in a broken environment.
"""

from coursekit import check
from coursekit.lesson.recording import record
from coursekit.lesson.resume import resume

__all__ = ["check", "record", "resume"]
