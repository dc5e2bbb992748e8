from __future__ import annotations

import pytest

from toolorch_integrations import Specialist, Tool
from toolorch_integrations.safety import DESTRUCTIVE_WORDS, is_destructive


@pytest.mark.parametrize(
    "name",
    [
        "delete_project",
        "deleteProject",
        "DeleteProject",
        "project-delete",
        "project.delete",
        "send",
        "sendEmail",
        "bulk_send_2",
        "HTTPDelete",
        "deleteURL",
        "user_refund",
        "PURGE_ALL",
    ],
)
def test_a_destructive_verb_anywhere_in_the_name_counts(name: str):
    assert is_destructive(name)


@pytest.mark.parametrize(
    "name",
    [
        "search",
        "list_sent",
        "sender",
        "get_refund",
        "find_deleted",
        "check_payment",
        "paper",
        "describe_delete_policy",
        "create_book",
        "booking_agent",
        "payload",
        "closest",
        "",
        "123",
        "___",
    ],
)
def test_other_words_and_looking_verbs_do_not(name: str):
    assert not is_destructive(name)


@pytest.mark.parametrize("word", DESTRUCTIVE_WORDS)
def test_each_word_counts_in_every_style(word: str):
    assert is_destructive(word)
    assert is_destructive(f"{word}_it")
    assert is_destructive(f"{word}It")
    assert not is_destructive(f"list_{word}")


def test_what_an_entry_says_of_itself_wins():
    assert not is_destructive("delete_project", declared=False)
    assert is_destructive("search", declared=True)
    assert Tool(name="delete_project").needs_confirmation
    assert not Tool(name="delete_project", destructive=False).needs_confirmation
    assert Specialist(name="robot", destructive=True).needs_confirmation


def test_other_words_can_be_given():
    assert is_destructive("launch_missile", words=("launch",))
    assert not is_destructive("delete_project", words=("launch",))
