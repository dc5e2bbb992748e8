"""Requests in which a result decides whether there is anything more to do."""

from __future__ import annotations

from toolorch_rl.said import article
from toolorch_rl.synthesis.phrasing import counted, plain, states
from toolorch_rl.synthesis.scene import Outline, Scene, UnfitError
from toolorch_rl.synthesis.templates.common import Said, at, created, destroyed, said_value

NONE: Said = ("no", "none", "0", "not", "nothing", "aren't", "isn't")
"""How an answer says that there is nothing of a kind."""


def if_any_create(scene: Scene) -> Outline:
    """List what has a value; make an entry if there is any."""
    family = scene.domain.family
    field, value, keys = scene.filters(family.child, *scene.draw.choice([(1, 5), (1, 5), (0, 0)]))
    entity = scene.draw.choice([family.parent, family.other])
    given = scene.fresh(entity)
    scene.call(f"list_{family.child.plural}", **{field.name: value})
    what = states(family.child, field, value)
    called = scene.words.called(entity, given)
    request = scene.words.one(
        f"If there are {what}, create {article(entity.noun)} {called}. Either way, give me their number.",
        f"Check whether there are any {what} and how many. If so, add {article(entity.noun)} {called}.",
        f"Create {article(entity.noun)} {called}, but only if there are {what}; say how many there are.",
    )
    if not keys:
        return Outline(request, f"There are no {what}, so I made no {entity.noun}.", [NONE])
    scene.next_turn()
    result = scene.call(f"create_{entity.name}", **given)
    found = f"{counted(len(keys), family.child)} with {field.words} {plain(value)}"
    answer = f"There {'is' if len(keys) == 1 else 'are'} {found}. "
    return Outline(request, answer + created(entity, given, result), [(str(len(keys)),), (str(given[entity.label]),)])


def if_value_update(scene: Scene) -> Outline:
    """Look at a field of an entry; change another if it has a value."""
    entity = scene.domain.family.child
    key = scene.pick(entity)
    row = scene.rows(entity)[key]
    choices = [item for item in scene.fields(entity, "choice") if item.name in row]
    field = scene.draw.choice(choices)
    value = row[field.name]
    asked = value if scene.chance(0.6) else scene.values.other(field, value)
    target, new = scene.change(entity, row)
    if target == field:
        raise UnfitError
    scene.call(f"get_{entity.name}", **{f"{entity.name}_id": key})
    said = scene.words.value(target, new)
    request = scene.words.one(
        f"If the {field.words} of {at(entity, key)} is {plain(asked)}, set its {target.words} to {said}. "
        f"Otherwise tell me its {field.words}.",
        f"Look at {at(entity, key)}: should its {field.words} be {plain(asked)}, change the {target.words} to {said}; "
        f"if it is anything else, just tell me what.",
    )
    if asked != value:
        answer = f"The {field.words} of {at(entity, key)} is {plain(value)}, so I changed nothing."
        return Outline(request, answer, [said_value(value)])
    scene.next_turn()
    scene.call(f"update_{entity.name}", **{f"{entity.name}_id": key, target.name: new})
    answer = f"The {field.words} of {at(entity, key)} is {plain(value)}, so I set its {target.words} to {plain(new)}."
    return Outline(request, answer, [(key, scene.label(entity, key))])


def if_more_create(scene: Scene) -> Outline:
    """Compare a number of an entry; make one that belongs to it if it is higher."""
    family = scene.domain.family
    numbers = scene.fields(family.child, "integer", "number")
    if not numbers:
        raise UnfitError
    field = scene.draw.choice(numbers)
    key = scene.pick(family.child, lambda row: field.name in row)
    value = float(scene.rows(family.child)[key][field.name] or 0)
    limit = max(1, int(value) + scene.draw.choice([-20, -9, -3, -1, 2, 5, 11, 25]))
    given = scene.fresh(family.grandchild, 0.3, references={family.child_up.name: key})
    scene.call(f"get_{family.child.name}", **{f"{family.child.name}_id": key})
    called = scene.words.called(family.grandchild, given)
    where = at(family.child, key)
    request = scene.words.one(
        f"If the {field.words} of {where} is more than {limit}, add {article(family.grandchild.noun)} {called} to it. "
        f"Tell me the {field.words} too.",
        f"What is the {field.words} of {where}? Should it be over {limit}, give it {article(family.grandchild.noun)} "
        f"{called}.",
    )
    answer = f"The {field.words} of {where} is {plain(value)}"
    if value <= limit:
        return Outline(request, f"{answer}, so I added nothing.", [said_value(value)])
    scene.next_turn()
    result = scene.call(f"create_{family.grandchild.name}", **given)
    said = [said_value(value), (str(given[family.grandchild.label]),)]
    return Outline(request, f"{answer}. {created(family.grandchild, given, result)}", said)


def if_value_act(scene: Scene) -> Outline:
    """Look at a field of an entry; do something destructive with it if it has a value."""
    action = scene.draw.choice(scene.domain.schema.actions)
    entity = scene.domain.schema.by_name[action.entity]
    key = scene.pick(entity, lambda row: any(row.get(name) != value for name, value in action.sets.items()))
    row = scene.rows(entity)[key]
    field = scene.draw.choice([item for item in scene.fields(entity, "choice") if item.name in row])
    value = row[field.name]
    asked = value if scene.chance(0.6) else scene.values.other(field, value)
    scene.call(f"get_{entity.name}", **{f"{entity.name}_id": key})
    request = scene.words.one(
        f"{action.verb.capitalize()} {at(entity, key)} if its {field.words} is {plain(asked)}; if not, tell me its "
        f"{field.words}. Name it in your answer.",
        f"Check {at(entity, key)} and tell me what it is called. Only if its {field.words} is {plain(asked)}, "
        f"{action.verb} it; else say which {field.words} it has.",
    )
    label = scene.label(entity, key)
    if asked != value:
        answer = f"The {field.words} of {label} is {plain(value)}, so I left it alone."
        return Outline(request, answer, [said_value(value), (label,)])
    scene.next_turn()
    scene.call(action.name, **{f"{entity.name}_id": key})
    outline = destroyed(scene, entity, [key], f"changed ({action.verb})", request, asked=True)
    kept = [item for item in outline.must_say if label not in item]
    return Outline(request, outline.answer, [(label,), *kept], outline.follow_ups)


TEMPLATES = (if_any_create, if_value_update, if_more_create, if_value_act)
