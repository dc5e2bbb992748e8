"""Requests that join several patterns: queries side by side, a filter, calls for each, a summary."""

from __future__ import annotations

from toolorch_rl.said import article
from toolorch_rl.synthesis.phrasing import counted, listed, plain, states
from toolorch_rl.synthesis.scene import Outline, Scene, UnfitError
from toolorch_rl.synthesis.templates.common import created, says_each


def query_twice_then_each(scene: Scene) -> Outline:
    """Two queries at once, an entry for each result of the first, and a summary of both."""
    family = scene.domain.family
    field, value, keys = scene.filters(family.child, 1, 3)
    second, second_value, others = scene.filters(family.parent, 1, 4)
    scene.call(f"list_{family.child.plural}", **{field.name: value})
    scene.call(f"list_{family.parent.plural}", **{second.name: second_value})
    scene.next_turn()
    given = scene.fresh(family.grandchild, 0.25)
    for key in keys:
        scene.call(f"create_{family.grandchild.name}", **given, **{family.child_up.name: key})
    what, also = states(family.child, field, value), states(family.parent, second, second_value)
    called = scene.words.called(family.grandchild, given)
    request = scene.words.one(
        f"Check the {what} and the {also}. For each of the former add {article(family.grandchild.noun)} {called}; "
        "of the latter just tell me how many there are.",
        f"How many {also} do we have? And every one of the {what} needs {article(family.grandchild.noun)} {called}.",
    )
    shown = listed([scene.label(family.child, key) for key in keys])
    answer = (
        f"There {'is' if len(others) == 1 else 'are'} {counted(len(others), family.parent)} with {second.words} "
        f"{plain(second_value)}. I added the {family.grandchild.noun} {given[family.grandchild.label]} to {shown}."
    )
    return Outline(request, answer, [(str(len(others)),), *says_each(scene, family.child, keys)])


def make_then_move(scene: Scene) -> Outline:
    """Make an entry while listing others, then move what was listed to it."""
    family = scene.domain.family
    field, value, keys = scene.filters(family.child, 1, 4)
    given = scene.fresh(family.parent, 0.3)
    parent = scene.call(f"create_{family.parent.name}", **given)
    scene.call(f"list_{family.child.plural}", **{field.name: value})
    scene.next_turn()
    for key in keys:
        scene.call(f"update_{family.child.name}", **{f"{family.child.name}_id": key, family.up.name: parent["id"]})
    what = states(family.child, field, value)
    called = scene.words.called(family.parent, given)
    request = scene.words.wish(
        scene.words.one(
            f"create {article(family.parent.noun)} {called} and move all {what} to it",
            f"set up {article(family.parent.noun)} {called} and let all {what} belong to it",
        )
    )
    shown = listed([scene.label(family.child, key) for key in keys])
    answer = f"{created(family.parent, given, parent)} I moved {shown} to it."
    return Outline(request, answer, [(str(given[family.parent.label]),), *says_each(scene, family.child, keys)])


def find_two_then_join(scene: Scene) -> Outline:
    """Two searches at once, an entry that belongs to the first result, and a link with the second."""
    family = scene.domain.family
    parent_label = scene.label(family.parent, scene.pick(family.parent))
    other_label = scene.label(family.other, scene.pick(family.other))
    parents = scene.call(f"search_{family.parent.plural}", query=parent_label)[family.parent.plural]
    others = scene.call(f"search_{family.other.plural}", query=other_label)[family.other.plural]
    if len(parents) != 1 or len(others) != 1:
        raise UnfitError
    scene.next_turn()
    given = scene.fresh(family.child, 0.3, references={family.up.name: parents[0]["id"]})
    child = scene.call(f"create_{family.child.name}", **given)
    scene.next_turn()
    ends = {f"{family.child.name}_id": child["id"], f"{family.other.name}_id": others[0]["id"]}
    scene.call(f"link_{family.link.name}", **ends)
    words = scene.words
    request = words.wish(
        f"add {article(family.child.noun)} to the {family.parent.noun} {words.named(parent_label)}, "
        f"{words.called(family.child, given)}, and link it with the {family.other.noun} {words.named(other_label)}"
    )
    answer = f"{created(family.child, given, child)} It belongs to {parent_label} and is linked with {other_label}."
    return Outline(request, answer, [(str(given[family.child.label]),), (other_label, others[0]["id"])])


def each_or_else(scene: Scene) -> Outline:
    """Find an entry, list what belongs to it and has a value; do something for each, or else another thing."""
    family = scene.domain.family
    parent = scene.pick(family.parent)
    where = {family.up.name: parent}
    field, value, keys = scene.filters(family.child, *scene.draw.choice([(1, 3), (1, 3), (0, 0)]), where)
    label = scene.label(family.parent, parent)
    scene.find(family.parent, label)
    scene.call(f"list_{family.child.plural}", **where, **{field.name: value})
    scene.next_turn()
    low, middle = scene.fresh(family.grandchild, 0.25), scene.fresh(family.child, 0.25)
    words = scene.words
    request = words.one(
        f"Look at the {states(family.child, field, value)} of the {family.parent.noun} {words.named(label)}. Give each "
        f"{article(family.grandchild.noun)} {words.called(family.grandchild, low)}. If there are none, add "
        f"{article(family.child.noun)} {words.called(family.child, middle)} to that {family.parent.noun} instead.",
        f"Every {family.child.noun} of the {family.parent.noun} {words.named(label)} that has {field.words} {value} "
        f"gets {article(family.grandchild.noun)} {words.called(family.grandchild, low)}. No such {family.child.noun}? "
        f"Then create {article(family.child.noun)} {words.called(family.child, middle)} there.",
    )
    if not keys:
        child = scene.call(f"create_{family.child.name}", **middle, **where)
        answer = f"{label} has none of that kind. {created(family.child, middle, child)}"
        return Outline(request, answer, [(str(middle[family.child.label]),)])
    for key in keys:
        scene.call(f"create_{family.grandchild.name}", **low, **{family.child_up.name: key})
    shown = listed([scene.label(family.child, key) for key in keys])
    answer = f"I added the {family.grandchild.noun} {low[family.grandchild.label]} to {shown}, of {label}."
    return Outline(request, answer, says_each(scene, family.child, keys))


TEMPLATES = (query_twice_then_each, make_then_move, find_two_then_join, each_or_else)
