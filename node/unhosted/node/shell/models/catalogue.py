"""The models people ask for by a short name: `catalogue.toml`, checked as it is read."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from unhosted.node.core.model_ref import ModelRef, parse_ref

DEFAULT_MODEL = "smollm2:135m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One file of a model. size_exact: False where the size is only about right, for planning.

    sha256, blake3: of the GGUF file; None where nobody of ours has measured them (the source's own digest
    is checked then).
    """

    name: str
    quantization: str
    ref: ModelRef
    size_bytes: int
    size_exact: bool
    sha256: str | None
    blake3: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueModel:
    """aliases: other names of the first build. parameters: as the maker states it, about."""

    name: str
    title: str
    aliases: tuple[str, ...]
    kind: Literal["chat", "embedding"]
    licence: str
    parameters: int
    context_tokens: int
    builds: tuple[Build, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """models: smallest first."""

    models: tuple[CatalogueModel, ...]
    build_by_name: Mapping[str, Build]

    def find(self, name: str) -> Build | None:
        """The build that a name, an alias or `NAME-QUANT` means."""
        return self.build_by_name.get(name.lower())

    def find_model(self, name: str) -> CatalogueModel | None:
        build = self.find(name)
        return next((model for model in self.models if build in model.builds), None) if build else None

    def find_ref(self, ref: ModelRef) -> Build | None:
        """The build that `ref` spells out."""
        return next((build for build in self.build_by_name.values() if build.ref == ref), None)

    def aliases(self, name: str) -> tuple[str, ...]:
        """Every other name of the build called `name`."""
        build = self.find(name)
        return tuple(other for other, found in self.build_by_name.items() if found is build and other != name)


@cache
def load_catalogue() -> Catalogue:
    """Raises: ValueError if the file that ships with the program breaks its own rules."""
    return parse_catalogue(files(__package__).joinpath("catalogue.toml").read_text("utf-8"))


def parse_catalogue(text: str) -> Catalogue:
    models = tuple(_parse_model(entry) for entry in tomllib.loads(text)["model"])
    sizes = [model.builds[0].size_bytes for model in models]
    if sizes != sorted(sizes):
        raise ValueError("the catalogue is not sorted by the size of the first build")
    build_by_name: dict[str, Build] = {}
    for model in models:
        names = [(alias, model.builds[0]) for alias in (model.name, *model.aliases)]
        for build in model.builds:
            names.append((f"{model.name}-{build.quantization.lower()}", build))
        for name, build in names:
            if name in build_by_name or name != name.lower():
                raise ValueError(f"the name {name!r} stands twice or is not in lower case")
            build_by_name[name] = build
    return Catalogue(models=models, build_by_name=build_by_name)


def _parse_model(entry: dict[str, Any]) -> CatalogueModel:
    builds = tuple(
        _parse_build(build, entry["name"], is_first=not index) for index, build in enumerate(entry["build"])
    )
    return CatalogueModel(
        name=entry["name"],
        title=entry["title"],
        aliases=tuple(entry.get("aliases", ())),
        kind=entry.get("kind", "chat"),
        licence=entry["licence"],
        parameters=entry["parameters"],
        context_tokens=entry["context_tokens"],
        builds=builds,
    )


def _parse_build(entry: dict[str, Any], model: str, *, is_first: bool) -> Build:
    quantization = entry["quantization"]
    if ("size_bytes" in entry) == ("size_about_bytes" in entry):
        raise ValueError(f"{model} {quantization}: give size_bytes or size_about_bytes")
    return Build(
        name=model if is_first else f"{model}-{quantization.lower()}",
        quantization=quantization,
        ref=parse_ref(entry["ref"]),
        size_bytes=entry.get("size_bytes") or entry["size_about_bytes"],
        size_exact="size_bytes" in entry,
        sha256=entry.get("sha256"),
        blake3=entry.get("blake3"),
    )
