"""What several templates share: answers about entries, and the end of destructive ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from toolorch_rl.environments import EntitySpec, Scalar
from toolorch_rl.synthesis.phrasing import listed, plain
from toolorch_rl.synthesis.scene import Outline, Scene

Template = Callable[[Scene], Outline]
"""Plays golden calls in a scene and says what was asked and what is answered."""

Said = tuple[str, ...]
"""Wordings of which an answer must have one."""

KEPT: Said = (
    "not",
    "kept",
    "unchanged",
    "still",
    "nothing",
    "declined",
    "refused",
    "left as",
    "didn't",
    "wasn't",
    "haven't",
    "hasn't",
)
"""How an answer says that a refused call was not made."""

YES = ("Yes, go ahead.", "Yes, please do.", "Yes, I am sure.", "Yes.", "Go ahead, yes.")
NO = ("No, leave it as it is.", "No, don't.", "No, I have changed my mind.", "No.", "Better not, no.")


def at(entity: EntitySpec, key: str) -> str:
    """Return how users and answers speak of an entry by id."""
    return f"{entity.noun} {key}"


def capital(text: str) -> str:
    """Return a text with a capital first letter; ids in it stay as they are."""
    return text[0].upper() + text[1:]


def names(scene: Scene, entity: EntitySpec, keys: Sequence[str]) -> str:
    """Return the names of entries that were there at first, as a list in a sentence."""
    return listed([scene.label(entity, key) for key in keys])


def says_each(scene: Scene, entity: EntitySpec, keys: Sequence[str]) -> list[Said]:
    """Return that an answer must name each entry, by name or by id."""
    return [(scene.label(entity, key), key) for key in keys]


def created(entity: EntitySpec, given: Mapping[str, Scalar], result: Mapping[str, Scalar]) -> str:
    """Return the words for an entry that was made."""
    return f"I created the {entity.noun} {given[entity.label]} ({result['id']})."


def said_value(value: Scalar) -> Said:
    """Return the wordings of a value."""
    if isinstance(value, bool):
        return ("yes", "true") if value else ("no", "false", "not")
    return (plain(value),)


def destroyed(
    scene: Scene,
    entity: EntitySpec,
    keys: Sequence[str],
    done: str,
    request: str,
    *,
    asked: bool,
    known: bool = True,
) -> Outline:
    """Return the outline of a task that ends with destructive calls.

    Args:
        scene: In which they were called, or refused.
        entity: Of what.
        keys: What they were for.
        done: What an answer says was done, such as `deleted`.
        request: The user's words.
        asked: Whether the arguments come from earlier results, so that the policy asks before it calls.
        known: Whether a result tells the names; else the answer has only the ids.
    """
    subject = (
        f"the {entity.noun if len(keys) == 1 else entity.nouns} {names(scene, entity, keys) if known else listed(keys)}"
    )
    be = "was" if len(keys) == 1 else "were"
    said: list[Said] = says_each(scene, entity, keys) if known else [(key,) for key in keys]
    follow_ups = (scene.words.one(*(YES if scene.approval else NO)),) if asked else ()
    if scene.approval:
        return Outline(request, f"{subject[0].upper()}{subject[1:]} {be} {done}.", said, follow_ups)
    return Outline(request, f"As you wish, {subject} {be} not {done}.", [*said, KEPT], follow_ups)
