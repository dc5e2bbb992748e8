"""What a run goes by: the orchestrator's own options, and what a caller sets for one request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from toolorch_integrations.budget import Budget
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.view import CatalogFilter


class RunOptions(BaseModel):
    """What a run goes by: the orchestrator's options, and on top of them what a caller sets for one request.

    Attributes:
        preferences: What the caller cares about.
        budget: Limits of the run.
        catalog: What the request hides, renames, re-prices or shortlists.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    preferences: Preferences = Field(default_factory=Preferences)
    budget: Budget = Field(default_factory=Budget)
    catalog: CatalogFilter = Field(default_factory=CatalogFilter)

    def with_context(self, context: Any) -> RunOptions:
        """Return these options with those of a request's context on top.

        Of the budget and the catalogue view, what the context leaves out stays as it is here: see `Budget.over` and
        `CatalogFilter.over`. Preferences are taken as a whole, since weights mean something beside each other only.

        Args:
            context: None, or a mapping or object that may hold `preferences`, `budget` and `catalog`, each as its own
                class or as a dictionary. Other keys are the app's and are left alone.

        Raises:
            pydantic.ValidationError: A value is not valid; the message names the field.
        """
        given = given_options(context)
        if not given.model_fields_set:
            return self
        return RunOptions(
            preferences=given.preferences if "preferences" in given.model_fields_set else self.preferences,
            budget=given.budget.over(self.budget),
            catalog=given.catalog.over(self.catalog),
        )


def given_options(context: Any) -> RunOptions:
    """Return what a request's context sets, and nothing else among the set fields.

    Args:
        context: As for `RunOptions.with_context`.

    Raises:
        pydantic.ValidationError: A value is not valid; the message names the field.
    """
    given: dict[str, Any] = {}
    for name in RunOptions.model_fields:
        value = context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)
        if value is not None:
            given[name] = value
    return RunOptions.model_validate(given)
