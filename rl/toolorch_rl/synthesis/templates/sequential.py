"""Requests of two steps, of which the second needs the first one's result."""

from __future__ import annotations

from toolorch_rl.said import article
from toolorch_rl.synthesis.phrasing import listed, plain
from toolorch_rl.synthesis.scene import Outline, Scene
from toolorch_rl.synthesis.templates.common import at, created, destroyed, said_value, says_each


def create_then_create(scene: Scene) -> Outline:
    """Make an entry, and one that belongs to it."""
    family = scene.domain.family
    parent_given = scene.fresh(family.parent)
    parent = scene.call(f"create_{family.parent.name}", **parent_given)
    scene.next_turn()
    child_given = scene.fresh(family.child, references={family.up.name: parent["id"]})
    child = scene.call(f"create_{family.child.name}", **child_given)
    words = scene.words
    first, second = words.called(family.parent, parent_given), words.called(family.child, child_given)
    verb = words.one("and add", "and then add", "and put", "and give it")
    request = words.wish(f"create {article(family.parent.noun)} {first} {verb} {article(family.child.noun)} {second}")
    answer = f"{created(family.parent, parent_given, parent)} {created(family.child, child_given, child)}"
    return Outline(
        request, answer, [(str(parent_given[family.parent.label]),), (str(child_given[family.child.label]),)]
    )


def find_then_create(scene: Scene) -> Outline:
    """Find an entry by name and make one that belongs to it."""
    family = scene.domain.family
    parent, up, entity = scene.draw.choice([
        (family.parent, family.up, family.child),
        (family.child, family.child_up, family.grandchild),
    ])  # fmt: skip
    label = scene.label(parent, scene.pick(parent))
    key = scene.find(parent, label)
    given = scene.fresh(entity, references={up.name: key})
    result = scene.call(f"create_{entity.name}", **given)
    verb = scene.words.one("add", "create", "make")
    called = scene.words.called(entity, given)
    request = scene.words.wish(
        scene.words.one(
            f"{verb} {article(entity.noun)} for the {parent.noun} {scene.words.named(label)}: {called}",
            f"find the {parent.noun} {scene.words.named(label)} and {verb} {article(entity.noun)} {called}",
        )
    )
    return Outline(request, f"{created(entity, given, result)} It belongs to {label}.", [(str(given[entity.label]),)])


def find_then_update(scene: Scene) -> Outline:
    """Find an entry by name and change it."""
    family = scene.domain.family
    entity = scene.draw.choice([family.parent, family.child, family.child])
    label = scene.label(entity, scene.pick(entity))
    key = scene.find(entity, label)
    field, value = scene.change(entity, scene.rows(entity)[key])
    scene.call(f"update_{entity.name}", **{f"{entity.name}_id": key, field.name: value})
    verb = scene.words.one("set the {0} of the {1} {2} to {3}", "change the {0} of {2} ({1}) to {3}")
    said = scene.words.value(field, value)
    request = scene.words.wish(verb.format(field.words, entity.noun, scene.words.named(label), said))
    return Outline(request, f"The {field.words} of {label} is now {plain(value)}.", [(label, key)])


def find_then_list(scene: Scene) -> Outline:
    """Find an entry by name and say what belongs to it."""
    family = scene.domain.family
    used = {row[family.up.name] for row in scene.rows(family.child).values()}
    key = scene.draw.choice(sorted(str(item) for item in used))
    label = scene.label(family.parent, key)
    scene.find(family.parent, label)
    scene.call(f"list_{family.child.plural}", **{family.up.name: key})
    keys = [child for child, row in scene.rows(family.child).items() if row[family.up.name] == key]
    name = scene.words.named(label)
    request = scene.words.question(
        scene.words.one(
            f"Which {family.child.nouns} belong to the {family.parent.noun} {name}?",
            f"Show me the {family.child.nouns} of the {family.parent.noun} {name}.",
            f"What {family.child.nouns} are there for {name} ({family.parent.noun})?",
        )
    )
    shown = listed([scene.label(family.child, child) for child in keys])
    return Outline(request, f"{label} has {shown}.", says_each(scene, family.child, keys))


def get_then_get(scene: Scene) -> Outline:
    """Follow a reference: say a field of what an entry belongs to."""
    family = scene.domain.family
    entity, up, parent = scene.draw.choice([
        (family.child, family.up, family.parent),
        (family.grandchild, family.child_up, family.child),
    ])  # fmt: skip
    key = scene.pick(entity)
    above = scene.call(f"get_{entity.name}", **{f"{entity.name}_id": key})[up.name]
    scene.next_turn()
    scene.call(f"get_{parent.name}", **{f"{parent.name}_id": above})
    field = scene.known_field(parent, above)
    value = scene.rows(parent)[above][field.name]
    request = scene.words.question(
        scene.words.one(
            f"Which {parent.noun} does {at(entity, key)} belong to, and what is its {field.words}?",
            f"Tell me the name and the {field.words} of the {parent.noun} of {at(entity, key)}.",
        )
    )
    label = scene.label(parent, above)
    answer = f"It belongs to {label}, whose {field.words} is {plain(value)}."
    return Outline(request, answer, [(label,), said_value(value)])


def create_then_link(scene: Scene) -> Outline:
    """Make an entry and link it with one that the request names by id."""
    family = scene.domain.family
    given = scene.fresh(family.child, references={family.up.name: scene.pick(family.parent)})
    other = scene.pick(family.other)
    result = scene.call(f"create_{family.child.name}", **given)
    scene.next_turn()
    ends = {f"{family.child.name}_id": result["id"], f"{family.other.name}_id": other}
    scene.call(f"link_{family.link.name}", **ends)
    verb = scene.words.one("link it with", "connect it to", "attach to it the")
    where = at(family.parent, str(given[family.up.name]))
    request = scene.words.wish(
        f"add {article(family.child.noun)} for {where} {scene.words.called(family.child, given)} "
        f"and {verb} {at(family.other, other)}"
    )
    answer = f"{created(family.child, given, result)} It is linked with {at(family.other, other)}."
    return Outline(request, answer, [(str(given[family.child.label]),), (other, scene.label(family.other, other))])


def find_then_delete(scene: Scene) -> Outline:
    """Find an entry by name and delete it."""
    family = scene.domain.family
    entity = scene.draw.choice([family.grandchild, family.other])
    label = scene.label(entity, scene.pick(entity))
    key = scene.find(entity, label)
    scene.call(f"delete_{entity.name}", **{f"{entity.name}_id": key})
    verb = scene.words.one("delete", "remove", "find and delete", "get rid of")
    request = scene.words.wish(f"{verb} the {entity.noun} {scene.words.named(label)}")
    return destroyed(scene, entity, [key], "deleted", request, asked=True)


def find_then_act(scene: Scene) -> Outline:
    """Find an entry by name and do something destructive with it."""
    action = scene.draw.choice(scene.domain.schema.actions)
    entity = scene.domain.schema.by_name[action.entity]
    wanted = scene.pick(entity, lambda row: any(row.get(name) != value for name, value in action.sets.items()))
    label = scene.label(entity, wanted)
    key = scene.find(entity, label)
    scene.call(action.name, **{f"{entity.name}_id": key})
    request = scene.words.wish(f"{action.verb} the {entity.noun} {scene.words.named(label)}")
    done = listed([f"set to {value}" for value in action.sets.values()])
    return destroyed(scene, entity, [key], done, request, asked=True)


TEMPLATES = (
    create_then_create,
    create_then_create,
    find_then_create,
    find_then_create,
    find_then_update,
    find_then_update,
    find_then_list,
    get_then_get,
    create_then_link,
    find_then_delete,
    find_then_act,
)
