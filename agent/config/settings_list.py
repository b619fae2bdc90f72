"""Every setting there is, walked from the models: its path, its variable, its default."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agent.config.words import Secret
from agent.config.written import ENV_NESTED, ENV_PREFIX, Written

SettingPath = tuple[str, ...]
"""("kafka", "tls", "enabled")."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting."""

    path: SettingPath
    field: FieldInfo

    @property
    def dotted(self) -> str:
        """As in messages and docs."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return ENV_PREFIX + ENV_NESTED.join(self.path).upper()

    @property
    def env_only(self) -> bool:
        """Whether it is a secret that must not stand in the file."""
        return Secret in get_args(self.field.annotation)


@cache
def all_settings() -> tuple[Setting, ...]:
    """Every setting, in the order of the models."""
    return tuple(_walk(Written, ()))


@cache
def sections() -> dict[SettingPath, type[BaseModel]]:
    """Every section by its path; the whole is at ()."""
    return dict(_sections(Written, ()))


def section_model(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a field that is a section; `None`: it is a setting."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _walk(model: type[BaseModel], prefix: SettingPath) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        inner = section_model(field)
        if inner is None:
            yield Setting((*prefix, name), field)
        else:
            yield from _walk(inner, (*prefix, name))


def _sections(model: type[BaseModel], prefix: SettingPath) -> Iterator[tuple[SettingPath, type[BaseModel]]]:
    yield prefix, model
    for name, field in model.model_fields.items():
        inner = section_model(field)
        if inner is not None:
            yield from _sections(inner, (*prefix, name))
