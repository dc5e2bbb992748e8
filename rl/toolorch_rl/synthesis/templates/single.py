"""Requests that one call settles."""

from __future__ import annotations

from toolorch_rl.said import article
from toolorch_rl.synthesis.phrasing import counted, listed, plain, states
from toolorch_rl.synthesis.scene import Outline, Scene, UnfitError
from toolorch_rl.synthesis.templates.common import at, capital, created, destroyed, said_value, says_each


def create_parent(scene: Scene) -> Outline:
    """Make an entry that needs no other."""
    entity = scene.draw.choice([scene.domain.family.parent, scene.domain.family.other])
    given = scene.fresh(entity)
    result = scene.call(f"create_{entity.name}", **given)
    verb = scene.words.one("create", "add", "make", "set up")
    request = scene.words.wish(f"{verb} a new {entity.noun} {scene.words.called(entity, given)}")
    return Outline(request, created(entity, given, result), [(str(given[entity.label]),)])


def create_child(scene: Scene) -> Outline:
    """Make an entry that belongs to one that the request names by id."""
    family = scene.domain.family
    entity, up, parent = scene.draw.choice([
        (family.child, family.up, family.parent),
        (family.grandchild, family.child_up, family.child),
    ])  # fmt: skip
    key = scene.pick(parent)
    given = scene.fresh(entity, references={up.name: key})
    result = scene.call(f"create_{entity.name}", **given)
    verb = scene.words.one("create", "add", "make")
    called = scene.words.called(entity, given)
    request = scene.words.wish(f"{verb} {article(entity.noun)} for {at(parent, key)} {called}")
    return Outline(request, created(entity, given, result), [(str(given[entity.label]),)])


def get_field(scene: Scene) -> Outline:
    """Say a field of an entry that the request names by id."""
    entity = scene.draw.choice(scene.domain.order)
    key = scene.pick(entity)
    field = scene.known_field(entity, key)
    value = scene.call(f"get_{entity.name}", **{f"{entity.name}_id": key})[field.name]
    where = at(entity, key)
    request = scene.words.question(
        scene.words.one(
            f"What is the {field.words} of {where}?",
            f"Tell me the {field.words} of {where}.",
            f"Look up {where}: what {field.words} does it have?",
            f"{field.words.capitalize()} of {where}?",
        )
    )
    answer = f"The {field.words} of {where} ({scene.label(entity, key)}) is {plain(value)}."
    return Outline(request, answer, [said_value(value)])


def get_name(scene: Scene) -> Outline:
    """Say the name of an entry that the request names by id."""
    entity = scene.draw.choice(scene.domain.order)
    key = scene.pick(entity)
    scene.call(f"get_{entity.name}", **{f"{entity.name}_id": key})
    label = scene.label(entity, key)
    words = entity.by_name[entity.label].words
    request = scene.words.question(
        scene.words.one(f"What is the {words} of {at(entity, key)}?", f"Which {words} does {at(entity, key)} have?")
    )
    return Outline(request, f"The {words} of {at(entity, key)} is {label}.", [(label,)])


def list_fitting(scene: Scene) -> Outline:
    """Count and name the entries that have a value."""
    entity = scene.draw.choice([scene.domain.family.child, scene.domain.family.parent])
    field, value, keys = scene.filters(entity, 1, 4)
    scene.call(f"list_{entity.plural}", **{field.name: value})
    what = states(entity, field, value)
    request = scene.words.question(
        scene.words.one(
            f"How many {what} are there, and which?",
            f"Give me the number and names of all {what}.",
            f"List the {what} and count them.",
        )
    )
    shown = listed([scene.label(entity, key) for key in keys])
    answer = f"There {'is' if len(keys) == 1 else 'are'} {counted(len(keys), entity)}: {shown}."
    return Outline(request, answer, [(str(len(keys)),), *says_each(scene, entity, keys)])


def list_of_parent(scene: Scene) -> Outline:
    """Name what belongs to an entry that the request names by id."""
    family = scene.domain.family
    key = scene.pick(family.parent)
    keys = [child for child, row in scene.rows(family.child).items() if row[family.up.name] == key]
    if not keys:
        raise UnfitError
    scene.call(f"list_{family.child.plural}", **{family.up.name: key})
    where = at(family.parent, key)
    request = scene.words.question(
        scene.words.one(
            f"Which {family.child.nouns} belong to {where}?",
            f"Show me all {family.child.nouns} of {where}.",
            f"What {family.child.nouns} does {where} have?",
        )
    )
    answer = f"{capital(where)} has {listed([scene.label(family.child, child) for child in keys])}."
    return Outline(request, answer, says_each(scene, family.child, keys))


def search_field(scene: Scene) -> Outline:
    """Find an entry by name and say a field of it."""
    entity = scene.draw.choice(scene.domain.order)
    key = scene.pick(entity)
    label = scene.label(entity, key)
    field = scene.known_field(entity, key)
    if len(scene.call(f"search_{entity.plural}", query=label)[entity.plural]) != 1:
        raise UnfitError
    value = scene.rows(entity)[key][field.name]
    name = scene.words.named(label)
    request = scene.words.question(
        scene.words.one(
            f"Find the {entity.noun} {name} and tell me its {field.words}.",
            f"What is the {field.words} of the {entity.noun} {name}?",
            f"Search for the {entity.noun} {name}. What {field.words} does it have?",
        )
    )
    return Outline(request, f"The {field.words} of {label} is {plain(value)}.", [said_value(value)])


def update(scene: Scene) -> Outline:
    """Change a field of an entry that the request names by id."""
    entity = scene.draw.choice(scene.domain.order)
    if not scene.fields(entity, "choice", "date", "integer"):
        raise UnfitError
    key = scene.pick(entity)
    field, value = scene.change(entity, scene.rows(entity)[key])
    scene.call(f"update_{entity.name}", **{f"{entity.name}_id": key, field.name: value})
    verb = scene.words.one("set the {0} of {1} to {2}", "change {1}'s {0} to {2}", "update {1}: {0} {2}")
    request = scene.words.wish(verb.format(field.words, at(entity, key), scene.words.value(field, value)))
    answer = f"The {field.words} of {at(entity, key)} is now {plain(value)}."
    return Outline(request, answer, [(key, scene.label(entity, key))])


def delete(scene: Scene) -> Outline:
    """Delete an entry that the request names by id."""
    family = scene.domain.family
    entity = scene.draw.choice([family.grandchild, family.other])
    key = scene.pick(entity)
    scene.call(f"delete_{entity.name}", **{f"{entity.name}_id": key})
    verb = scene.words.one("delete", "remove", "get rid of", "permanently delete")
    request = scene.words.wish(f"{verb} {at(entity, key)}")
    return destroyed(scene, entity, [key], "deleted", request, asked=False, known=False)


def act(scene: Scene) -> Outline:
    """Do something destructive with an entry that the request names by id."""
    action = scene.draw.choice(scene.domain.schema.actions)
    entity = scene.domain.schema.by_name[action.entity]
    key = scene.pick(entity, lambda row: any(row.get(name) != value for name, value in action.sets.items()))
    scene.call(action.name, **{f"{entity.name}_id": key})
    done = listed([f"set to {value}" for value in action.sets.values()])
    request = scene.words.wish(f"{action.verb} {at(entity, key)}")
    return destroyed(scene, entity, [key], done, request, asked=False, known=False)


def link(scene: Scene) -> Outline:
    """Link two entries that the request names by id."""
    family = scene.domain.family
    child, other = scene.pick(family.child), scene.pick(family.other)
    if (child, other) in scene.initial.links[family.link.name]:
        raise UnfitError
    scene.call(f"link_{family.link.name}", **{f"{family.child.name}_id": child, f"{family.other.name}_id": other})
    first, second = at(family.child, child), at(family.other, other)
    verb = scene.words.one("link {0} with {1}", "connect {0} and {1}", "attach {1} to {0}", "assign {1} to {0}")
    answer = f"{capital(first)} is now linked with {second}."
    return Outline(scene.words.wish(verb.format(first, second)), answer, [(child,), (other,)])


def unlink(scene: Scene) -> Outline:
    """Take back a link between entries that the request names by id."""
    family = scene.domain.family
    pairs = scene.initial.links[family.link.name]
    if not pairs:
        raise UnfitError
    child, other = scene.draw.choice(pairs)
    scene.call(f"unlink_{family.link.name}", **{f"{family.child.name}_id": child, f"{family.other.name}_id": other})
    first, second = at(family.child, child), at(family.other, other)
    verb = scene.words.one("unlink {0} from {1}", "disconnect {0} and {1}", "detach {1} from {0}")
    answer = f"{capital(first)} is no longer linked with {second}."
    return Outline(scene.words.wish(verb.format(first, second)), answer, [(child,), (other,)])


TEMPLATES = (
    create_parent,
    create_child,
    create_child,
    get_field,
    get_field,
    get_name,
    list_fitting,
    list_of_parent,
    search_field,
    update,
    update,
    delete,
    act,
    link,
    unlink,
)
