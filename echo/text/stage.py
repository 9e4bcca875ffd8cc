"""Stage directions: words between asterisks or brackets that describe a sound or a gesture."""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Sounds a voice (or an audience) makes; these may also stand in round brackets.
_SOUNDS = _words("""
    ahem applause beat breath breathe burp cackle cheer choke chuckle clap clear cough cry exhale gasp giggle
    groan growl grumble grunt gulp hiccup hiss huff hum inhale laugh laughter moan mumble murmur music mutter
    pant pause purr scoff scream shout shriek sigh silence sing sneeze snicker sniff sniffle snort sob stutter
    swallow tsk weep whimper whine whisper whistle yawn yell
""")
# Sounds that are written as bare interjections (*sigh*); other bare words between asterisks are emphasis (*cry*).
_INTERJECTIONS = _words("""
    ahem applause burp chuckle cough gasp giggle groan gulp hiccup laugh laughter sigh sneeze sniff sniffle
    snort sob tsk yawn
""")
_GESTURES = _words("""
    bite blink blush bow cross fidget fold frown gaze glance glare grin hug kiss lean look move nod point pout
    raise reach roll shake shiver shrug sit smile smirk squint stand stare step stretch tilt tremble turn walk
    wave wink
""")
# Words that may accompany them; adverbs in -ly may too.
_COMPANIONS = _words("""
    a again an and arm arms around aside at away awkward back big bit bitter brow brows confused deep down dry
    excited eye eyebrow eyebrows eyes face finger fingers for forward hair hand hands happy he head heads heavy
    her hers herself him himself his i in into it its light lip lips little long loud me moment my nervous of
    off out over quiet sad sarcastic she short shoulder shoulders slight small soft still surprised the their
    them then they thoughtful throat to together toward towards up while with you your
""")
_THIRD_PERSON = _words("he she they it")
_MAX_WORDS = 12
_SHORTEST_NARRATION = 3  # words; "*She* did it" is emphasis
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def is_stage_direction(content: str, *, sounds_only: bool) -> bool:
    """Tell whether the words of a mark are nothing but a sound or gesture and its companions.

    ``sounds_only`` is for round brackets, where only sounds count but in any form ("(pause)"). Between asterisks the
    verb must look like a direction ("sighs", "nodding", "sigh", "he turned away"), so that an emphasised word of the
    sentence ("don't *cry*") is not taken for one.
    """
    words = [word.lower() for word in _WORD.findall(content)]
    if not words or len(words) > _MAX_WORDS or any(char.isdigit() for char in content):
        return False
    verbs = [word for word in words if _is_verb(word, _SOUNDS) or (not sounds_only and _is_verb(word, _GESTURES))]
    others = [word for word in words if word not in verbs and word not in _COMPANIONS and not word.endswith("ly")]
    if not verbs or others:
        return False
    return sounds_only or _directs(verbs[0], narrated=words[0] in _THIRD_PERSON)


def narrates(content: str) -> bool:
    """Tell whether words open like a narration: "she looks up from her book", "smiles at you and waves"."""
    words = [word.lower() for word in _WORD.findall(content)]
    if len(words) < _SHORTEST_NARRATION:
        return False
    first = words[0]
    verb = _is_verb(first, _SOUNDS) or _is_verb(first, _GESTURES)
    return first in _THIRD_PERSON or (verb and _directs(first, narrated=False))


def _directs(verb: str, narrated: bool) -> bool:
    if verb in _INTERJECTIONS or narrated:
        return True
    base = verb in _SOUNDS or verb in _GESTURES
    return not base and verb.endswith(("s", "ing"))


def _is_verb(word: str, bases: frozenset[str]) -> bool:
    return any(stem in bases for stem in _stems(word))


def _stems(word: str) -> list[str]:
    """What ``word`` may be an -s, -ed or -ing form of, itself included."""
    stems = [word]
    for ending in ("s", "es", "ed", "ing"):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            stem = word[: -len(ending)]
            stems += [stem, stem + "e"]
            if stem[-1] == stem[-2]:
                stems.append(stem[:-1])  # "humming"
            if stem[-1] == "i":
                stems.append(stem[:-1] + "y")  # "cries"
    return stems
