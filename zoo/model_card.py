"""The model card people read: `README.md` of an entry, with the metadata block of the Hugging Face Hub."""

from zoo.card import Card

__all__ = ["model_card"]

_TEMPLATE = """\
---
license: apache-2.0
library_name: menagerie
pipeline_tag: image-classification
datasets: [{dataset}]
---
# {name}

`{architecture}`, {parameters:,} parameters, {giga:.3f} G multiply-adds for one {height} x {width} image,
{classes} classes ({dataset}).

{trained}
{details}
| split | views | top-1 accuracy |
|---|---|---|
{accuracies}

    import zoo
    net, card = zoo.load("{name}")
"""


def model_card(card: Card) -> str:
    """Return the Markdown text of a card."""
    if card.trained_on is None:
        trained = "What it was trained on is not known, so it cannot take part in a fit."
    else:
        trained = (
            f"Trained with recipe `{card.recipe}`, seed {card.seed}, on {card.trained_on['images']:,} images; "
            "the validation split was held out."
        )
    accuracies = [
        f"| {split} | {views} | {100 * value:.2f} % |"
        for split, by_view in card.metrics.items()
        for views, value in by_view.items()
    ]
    return _TEMPLATE.format(
        name=card.name,
        dataset=card.dataset,
        architecture=card.architecture,
        parameters=card.parameters,
        giga=card.multiply_adds / 1e9,
        height=card.input_size[0],
        width=card.input_size[1],
        classes=len(card.classes),
        trained=trained,
        details="".join(f"\n- {key}: {value}" for key, value in sorted(card.training.items())) + "\n",
        accuracies="\n".join(accuracies),
    )
