"""Distinguishing package failures from infrastructure faults: pure functions over facts and logs.

`judge` decides one attempt of a build job from its facts and logs; `classify_text` decides by a
log alone; `RULES` are the text rules, which are data (see `rulebook.py`).
"""

from opam_ci.core.classify.excerpt import cut, gap_mark
from opam_ci.core.classify.judge import judge
from opam_ci.core.classify.matching import TextVerdict
from opam_ci.core.classify.rule import Rule
from opam_ci.core.classify.rulebook import RULES, every_rule
from opam_ci.core.classify.text import classify_text

__all__ = [
    "RULES",
    "Rule",
    "TextVerdict",
    "classify_text",
    "cut",
    "every_rule",
    "gap_mark",
    "judge",
]
