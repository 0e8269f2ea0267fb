"""What can be typed behind ``python -m coursekit``.

registry      how a command is entered, and the arguments that several share
lessons       build, run, compare, begin anew; and about the machine
publish       the book, the README, workshops, bundles, grids, boards, atlases
"""

from coursekit.commands import lessons, publish
from coursekit.commands.registry import COMMANDS

__all__ = ["COMMANDS", "lessons", "publish"]
