"""Texts as a teacher says them with a speaker of one's choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from echo.text.spell_out import spell_out
from train.evaluation.heldout import Item
from train.tiny.corpus import Recording
from train.tiny.teacher.speakers import Speaker
from train.tiny.teacher.studio import Studio


def retold(speaker: Speaker, clip: Recording, texts: Sequence[str], studio: Studio) -> list[Item]:
    """The texts as the teacher says them with this speaker, to be said in the voice of the clip.

    Teachers learnt to read words alone, as did the model that learns from them.

    Raises TeacherMissing, and ValueError for a text that the teacher reads in its own way.
    """
    made = []
    for text in texts:
        take = studio.record(speaker, spell_out(text))
        times = np.zeros(0, np.float32)  # of the bytes of a text that is spelled out there are none
        said = Recording(f"{clip.key}: {text}", text, clip.speaker, speaker.teacher, take.samples, take.phones, times)
        made.append(Item(said, clip, "seen"))
    return made
