"""Requests for two independent things, which are done in one turn."""

from __future__ import annotations

from collections.abc import Callable

from toolorch_rl.environments import EntitySpec
from toolorch_rl.said import article
from toolorch_rl.synthesis.phrasing import counted, listed, plain, states
from toolorch_rl.synthesis.scene import Outline, Scene, UnfitError
from toolorch_rl.synthesis.templates.common import Said, at, created, said_value, says_each

Part = tuple[str, str, list[Said]]
"""Wish beginning with a verb in lower case, answer, and what it must say."""


def two(
    first: Callable[[Scene, EntitySpec], Part], second: Callable[[Scene, EntitySpec], Part]
) -> Callable[..., Outline]:
    """Return a template of two independent parts about different entities."""

    def template(scene: Scene) -> Outline:
        one, other = scene.draw.sample([*scene.domain.schema.entities], 2)
        parts = [first(scene, one), second(scene, other)]
        joint = scene.words.one(" and ", ", and also ", ", and ", " and at the same time ")
        request = scene.words.wish(joint.join(part[0] for part in parts))
        said = [item for part in parts for item in part[2]]
        return Outline(request, " ".join(part[1] for part in parts), said)

    template.__name__ = f"{first.__name__}_and_{second.__name__}"
    return template


def create(scene: Scene, entity: EntitySpec) -> Part:
    """Make an entry; what it belongs to is named by id."""
    references = {
        item.name: scene.pick(scene.domain.schema.by_name[item.refers_to or ""])
        for item in entity.references
        if item.required
    }
    given = scene.fresh(entity, references=references)
    result = scene.call(f"create_{entity.name}", **given)
    targets = [at(scene.domain.schema.by_name[item.refers_to or ""], references[item.name])
               for item in entity.references if item.name in references]  # fmt: skip
    where = f" for {listed(targets)}" if targets else ""
    wish = f"{scene.words.one('create', 'add')} {article(entity.noun)}{where} {scene.words.called(entity, given)}"
    return wish, created(entity, given, result), [(str(given[entity.label]),)]


def read(scene: Scene, entity: EntitySpec) -> Part:
    """Say a field of an entry that is named by id."""
    key = scene.pick(entity)
    field = scene.known_field(entity, key)
    value = scene.call(f"get_{entity.name}", **{f"{entity.name}_id": key})[field.name]
    wish = f"{scene.words.one('tell me', 'look up', 'check')} the {field.words} of {at(entity, key)}"
    return wish, f"The {field.words} of {at(entity, key)} is {plain(value)}.", [said_value(value)]


def count(scene: Scene, entity: EntitySpec) -> Part:
    """Count and name the entries that have a value."""
    field, value, keys = scene.filters(entity, 1, 4)
    scene.call(f"list_{entity.plural}", **{field.name: value})
    wish = f"{scene.words.one('count and list', 'tell me how many and which are')} the {states(entity, field, value)}"
    shown = listed([scene.label(entity, key) for key in keys])
    return wish, f"{counted(len(keys), entity)}: {shown}.", [(str(len(keys)),), *says_each(scene, entity, keys)]


def change(scene: Scene, entity: EntitySpec) -> Part:
    """Change a field of an entry that is named by id."""
    if not scene.fields(entity, "choice", "date", "integer"):
        raise UnfitError
    key = scene.pick(entity)
    field, value = scene.change(entity, scene.rows(entity)[key])
    scene.call(f"update_{entity.name}", **{f"{entity.name}_id": key, field.name: value})
    said = scene.words.value(field, value)
    wish = f"{scene.words.one('set', 'change')} the {field.words} of {at(entity, key)} to {said}"
    answer = f"The {field.words} of {at(entity, key)} is now {plain(value)}."
    return wish, answer, [(key, scene.label(entity, key))]


def same_field_twice(scene: Scene) -> Outline:
    """Compare a field of two entries that the request names by id."""
    entity = scene.draw.choice([scene.domain.family.child, scene.domain.family.parent])
    field = scene.draw.choice(scene.fields(entity, "choice", "date", "integer"))
    keys = [key for key, row in scene.rows(entity).items() if field.name in row]
    if len(keys) < 2:
        raise UnfitError
    keys = scene.draw.sample(keys, 2)
    values = [scene.call(f"get_{entity.name}", **{f"{entity.name}_id": key})[field.name] for key in keys]
    request = scene.words.question(
        scene.words.one(
            f"What are the {field.words} of {at(entity, keys[0])} and the {field.words} of {at(entity, keys[1])}?",
            f"Compare the {field.words} of the {entity.nouns} {keys[0]} and {keys[1]}.",
        )
    )
    answer = "; ".join(f"{at(entity, key)}: {plain(value)}" for key, value in zip(keys, values, strict=True))
    return Outline(request, answer + ".", [said_value(value) for value in values])


TEMPLATES = (
    two(create, create),
    two(read, read),
    two(count, read),
    two(create, count),
    two(change, change),
    two(change, read),
    two(create, change),
    same_field_twice,
)
