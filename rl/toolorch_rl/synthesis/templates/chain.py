"""Requests of three and more calls that depend on each other."""

from __future__ import annotations

from toolorch_rl.said import article
from toolorch_rl.synthesis.phrasing import listed, plain
from toolorch_rl.synthesis.scene import Outline, Scene
from toolorch_rl.synthesis.templates.common import at, created, says_each


def create_with_several(scene: Scene) -> Outline:
    """Make an entry, and two to four that belong to it."""
    family = scene.domain.family
    given = scene.fresh(family.parent)
    parent = scene.call(f"create_{family.parent.name}", **given)
    scene.next_turn()
    children = [
        scene.fresh(family.child, 0.15, references={family.up.name: parent["id"]})
        for _ in range(scene.draw.randint(2, 4))
    ]
    made = [scene.call(f"create_{family.child.name}", **child) for child in children]
    words = scene.words
    several = listed([words.called(family.child, child) for child in children])
    request = words.wish(
        f"create {article(family.parent.noun)} {words.called(family.parent, given)} and {words.one('add', 'put in')} "
        f"{len(children)} {family.child.nouns}: {several}"
    )
    answer = [created(family.parent, given, parent)]
    answer += [created(family.child, child, result) for child, result in zip(children, made, strict=True)]
    said = [(str(given[family.parent.label]),), *((str(child[family.child.label]),) for child in children)]
    return Outline(request, " ".join(answer), said)


def create_three_deep(scene: Scene) -> Outline:
    """Make an entry, one that belongs to it, and one that belongs to that."""
    family = scene.domain.family
    top = scene.fresh(family.parent, 0.25)
    parent = scene.call(f"create_{family.parent.name}", **top)
    scene.next_turn()
    middle = scene.fresh(family.child, 0.25, references={family.up.name: parent["id"]})
    child = scene.call(f"create_{family.child.name}", **middle)
    scene.next_turn()
    low = scene.fresh(family.grandchild, 0.25, references={family.child_up.name: child["id"]})
    grandchild = scene.call(f"create_{family.grandchild.name}", **low)
    words = scene.words
    request = words.wish(
        f"create {article(family.parent.noun)} {words.called(family.parent, top)}, add {article(family.child.noun)} "
        f"{words.called(family.child, middle)} to it, and give that {family.child.noun} "
        f"{article(family.grandchild.noun)} {words.called(family.grandchild, low)}"
    )
    answer = [created(family.parent, top, parent), created(family.child, middle, child)]
    answer.append(created(family.grandchild, low, grandchild))
    said = [(str(top[family.parent.label]),), (str(middle[family.child.label]),), (str(low[family.grandchild.label]),)]
    return Outline(request, " ".join(answer), said)


def find_create_create(scene: Scene) -> Outline:
    """Find an entry by name, make one that belongs to it, and one that belongs to that."""
    family = scene.domain.family
    label = scene.label(family.parent, scene.pick(family.parent))
    key = scene.find(family.parent, label)
    middle = scene.fresh(family.child, 0.3, references={family.up.name: key})
    child = scene.call(f"create_{family.child.name}", **middle)
    scene.next_turn()
    low = scene.fresh(family.grandchild, 0.3, references={family.child_up.name: child["id"]})
    grandchild = scene.call(f"create_{family.grandchild.name}", **low)
    words = scene.words
    request = words.wish(
        f"add {article(family.child.noun)} to the {family.parent.noun} {words.named(label)}, "
        f"{words.called(family.child, middle)}, and for it {article(family.grandchild.noun)} "
        f"{words.called(family.grandchild, low)}"
    )
    answer = f"For {label}: {created(family.child, middle, child)} {created(family.grandchild, low, grandchild)}"
    return Outline(request, answer, [(str(middle[family.child.label]),), (str(low[family.grandchild.label]),)])


def find_create_link(scene: Scene) -> Outline:
    """Find an entry by name, make one that belongs to it, and link that with one that the request names by id."""
    family = scene.domain.family
    label = scene.label(family.parent, scene.pick(family.parent))
    key = scene.find(family.parent, label)
    given = scene.fresh(family.child, 0.3, references={family.up.name: key})
    child = scene.call(f"create_{family.child.name}", **given)
    scene.next_turn()
    other = scene.pick(family.other)
    ends = {f"{family.child.name}_id": child["id"], f"{family.other.name}_id": other}
    scene.call(f"link_{family.link.name}", **ends)
    request = scene.words.wish(
        f"create {article(family.child.noun)} for the {family.parent.noun} {scene.words.named(label)}, "
        f"{scene.words.called(family.child, given)} and link it with {at(family.other, other)}"
    )
    answer = f"For {label}: {created(family.child, given, child)} It is linked with {at(family.other, other)}."
    return Outline(request, answer, [(str(given[family.child.label]),), (other, scene.label(family.other, other))])


def find_list_update(scene: Scene) -> Outline:
    """Find an entry by name, list what belongs to it, and change what is found there."""
    family = scene.domain.family
    parent = scene.pick(family.parent)
    where = {family.up.name: parent}
    field, value, keys = scene.filters(family.child, 1, 3, where)
    label = scene.label(family.parent, parent)
    scene.find(family.parent, label)
    scene.call(f"list_{family.child.plural}", **where, **{field.name: value})
    scene.next_turn()
    new = scene.values.other(field, value)
    for key in keys:
        scene.call(f"update_{family.child.name}", **{f"{family.child.name}_id": key, field.name: new})
    request = scene.words.wish(
        f"set the {field.words} of all {family.child.nouns} of the {family.parent.noun} {scene.words.named(label)} "
        f"that have {field.words} {plain(value)} to {plain(new)}, and tell me which they are"
    )
    shown = listed([scene.label(family.child, key) for key in keys])
    answer = f"I set the {field.words} to {plain(new)} for {shown}, of {label}."
    return Outline(request, answer, says_each(scene, family.child, keys))


TEMPLATES = (create_with_several, create_with_several, create_three_deep, find_create_create, find_create_link,
             find_list_update)  # fmt: skip
