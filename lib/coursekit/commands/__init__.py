"""What can be typed behind ``python -m coursekit``."""

from coursekit.commands import lessons, publish
from coursekit.commands.registry import COMMANDS

__all__ = ["COMMANDS", "lessons", "publish"]
