"""Model cards of the weights that carry a result: python -m results.cards writes them to results/cards."""

from mrcar_timm.checkpoints.record import CHECKPOINTS
from mrcar_timm.hub.card import render_card
from mrcar_timm.hub.save import hub_config
from mrcar_timm.network import load_network

from .collect import ARCHITECTURE, HERE, TAGS

NAMES = [f"{ARCHITECTURE}.{tag}" for tag in TAGS]


def render(name: str) -> str:
    """A card as it is published to a repository ORG/NAME."""
    record = CHECKPOINTS[name]
    return render_card(record, hub_config(load_network(name).model, record), f"ORG/{name}")


if __name__ == "__main__":
    (HERE / "cards").mkdir(exist_ok=True)
    for name in NAMES:
        (HERE / "cards" / f"{name}.md").write_text(render(name), encoding="utf-8")
