"""Prints the table of `GenerationConfig` in docs/guide-transformers.md.

python -m scripts.transformers_table
"""

from outrider.engine.generation_config.fields import FIELDS


def rows() -> list[str]:
    """Return the lines of the table."""
    head = ["| Field | What Outrider does | Counterpart, or what to do |", "|---|---|---|"]
    return head + [
        f"| `{name}` | {field.use.value} | {field.note} |" for name, field in FIELDS.items()
    ]


if __name__ == "__main__":
    print("\n".join(rows()))
