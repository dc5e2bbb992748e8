"""Requests that want the same done for each entry of a list."""

from __future__ import annotations

from toolorch_rl.said import article
from toolorch_rl.synthesis.phrasing import listed, plain, states
from toolorch_rl.synthesis.scene import Outline, Scene, UnfitError
from toolorch_rl.synthesis.templates.common import at, capital, destroyed, says_each


def create_for_each(scene: Scene) -> Outline:
    """List what has a value, and make an entry for each."""
    family = scene.domain.family
    field, value, keys = scene.filters(family.child, 1, 4)
    scene.call(f"list_{family.child.plural}", **{field.name: value})
    scene.next_turn()
    given = scene.fresh(family.grandchild, 0.3)
    for key in keys:
        scene.call(f"create_{family.grandchild.name}", **given, **{family.child_up.name: key})
    what = states(family.child, field, value)
    called = scene.words.called(family.grandchild, given)
    request = scene.words.one(
        f"For each of the {what}, add {article(family.grandchild.noun)} {called}.",
        f"Give all {what} {article(family.grandchild.noun)} {called}, and tell me which they were.",
        f"Go through the {what} and create {article(family.grandchild.noun)} {called} for every one of them.",
    )
    shown = listed([scene.label(family.child, key) for key in keys])
    answer = f"I added the {family.grandchild.noun} {given[family.grandchild.label]} to {shown}."
    return Outline(request, answer, says_each(scene, family.child, keys))


def update_each(scene: Scene) -> Outline:
    """List what has a value, and change each."""
    entity = scene.domain.family.child
    field, value, keys = scene.filters(entity, 1, 4)
    target = scene.draw.choice([item for item in scene.fields(entity, "choice", "date", "integer") if item != field])
    taken = {scene.rows(entity)[key].get(target.name) for key in keys}
    new = scene.values.of(target)
    if new in taken:
        raise UnfitError
    scene.call(f"list_{entity.plural}", **{field.name: value})
    scene.next_turn()
    for key in keys:
        scene.call(f"update_{entity.name}", **{f"{entity.name}_id": key, target.name: new})
    what = states(entity, field, value)
    said = scene.words.value(target, new)
    request = scene.words.one(
        f"Set the {target.words} of all {what} to {said} and tell me which you changed.",
        f"Every one of the {what} should get the {target.words} {said}. Name them afterwards.",
        f"For all {what}, change the {target.words} to {said}.",
    )
    shown = listed([scene.label(entity, key) for key in keys])
    return Outline(request, f"The {target.words} is now {plain(new)} for {shown}.", says_each(scene, entity, keys))


def delete_each(scene: Scene) -> Outline:
    """List what belongs to an entry, and delete each."""
    family = scene.domain.family
    parents = sorted({str(row[family.child_up.name]) for row in scene.rows(family.grandchild).values()})
    key = scene.draw.choice(parents)
    rows = scene.rows(family.grandchild)
    keys = sorted(item for item, row in rows.items() if row[family.child_up.name] == key)
    scene.call(f"list_{family.grandchild.plural}", **{family.child_up.name: key})
    scene.next_turn()
    for item in keys:
        scene.call(f"delete_{family.grandchild.name}", **{f"{family.grandchild.name}_id": item})
    request = scene.words.one(
        f"Delete all {family.grandchild.nouns} of {at(family.child, key)}.",
        f"Remove every one of the {family.grandchild.nouns} that {at(family.child, key)} has.",
        f"Clean up {at(family.child, key)}: its {family.grandchild.nouns} can go, all of them.",
    )
    return destroyed(scene, family.grandchild, keys, "deleted", request, asked=True)


def link_each(scene: Scene) -> Outline:
    """List all entries of a kind, and link an entry that the request names by id with each."""
    family = scene.domain.family
    linked = {pair[0] for pair in scene.initial.links[family.link.name]}
    free = [key for key in scene.rows(family.child) if key not in linked]
    if not free:
        raise UnfitError
    key = scene.draw.choice(free)
    scene.call(f"list_{family.other.plural}")
    scene.next_turn()
    keys = sorted(scene.rows(family.other))
    for other in keys:
        ends = {f"{family.child.name}_id": key, f"{family.other.name}_id": other}
        scene.call(f"link_{family.link.name}", **ends)
    request = scene.words.one(
        f"Link {at(family.child, key)} with each of the {family.other.nouns}.",
        f"Every one of our {family.other.nouns} should be linked with {at(family.child, key)}.",
        f"Connect all {family.other.nouns} there are to {at(family.child, key)} and name them.",
    )
    shown = listed([scene.label(family.other, other) for other in keys])
    answer = f"{capital(at(family.child, key))} is now linked with {shown}."
    return Outline(request, answer, says_each(scene, family.other, keys))


TEMPLATES = (create_for_each, create_for_each, update_each, delete_each, link_each)
