"""What is said of a photo once it is there: more to learn from, and nothing that may be asked with.

Before a share, people lead up to a photo; after it, they talk about what they see. So a training
split can be learned from twice: as it is, and with each share moved behind what was said from it
on. Dev and test are asked as they are: nobody knows then what will be said.
"""

from __future__ import annotations

import dataclasses
import hashlib

from mmjax.data.schema import Dialogue, Turn
from mmjax.data.sources import Source

SUFFIX = ":after"  # of the id of a dialogue with its shares moved

# Part of the fingerprint: raise it when a dialogue is moved in another way than before.
_FORMAT = 1


class AfterwardsSource:
    """The dialogues of a source, and behind them those with something said after a share, moved.

    See `Source` for the members.
    """

    def __init__(self, source: Source, *, one_voice: bool):
        """`one_voice`: as `moved`."""
        self.name, self.photos, self.regions = source.name, source.photos, source.regions
        digest = hashlib.sha256(f"{source.fingerprint} after {one_voice} {_FORMAT}".encode())
        self.fingerprint = digest.hexdigest()
        self._source, self._one_voice = source, one_voice
        self._numbers = [i for i in range(len(source)) if _spoken(source[i])]

    def __len__(self) -> int:
        return len(self._source) + len(self._numbers)

    def __getitem__(self, i: int) -> Dialogue:
        own = len(self._source)
        if i < own:
            return self._source[i]
        return moved(self._source[self._numbers[i - own]], one_voice=self._one_voice)


def moved(dialogue: Dialogue, *, one_voice: bool) -> Dialogue:
    """A dialogue from its first share on, each share behind what was said until the next.

    Args:
      one_voice: whoever shares the photo is said to have said it all, so that what others say of
        it counts where the sharer's turns alone are read.
    """
    turns: list[Turn] = []
    for share, said in _talks(dialogue):
        for turn in said:
            turns.append(Turn(share.speaker if one_voice else turn.speaker, turn.text))
        turns.append(dataclasses.replace(share, text=""))
    return Dialogue(dialogue.id + SUFFIX, tuple(turns), roles=dialogue.roles)


def _talks(dialogue: Dialogue) -> list[tuple[Turn, list[Turn]]]:
    """Each turn that shares, and what was said from it on (with it too), until the next one."""
    found: list[tuple[Turn, list[Turn]]] = []
    for turn in dialogue.turns:
        if turn.photos:
            found.append((turn, []))
        if found and turn.text.strip():
            found[-1][1].append(turn)
    return found


def _spoken(dialogue: Dialogue) -> bool:
    return any(said for _, said in _talks(dialogue))
