"""Embeddings are better exempt: the rows that no batch has touched get gradients of exactly 0."""

from torch import Tensor, nn


def embedding_parameters(model: nn.Module) -> list[Tensor]:
    """The weights of a model's embeddings, to be exempt from the vote.

    A vote moves an element by a level at least, wherever somebody votes. A row that no batch has
    touched has a gradient of 0: broken, its zeros are random steps, and with momentum the last true
    step is repeated long after the row was touched. Averaged in float32, such rows stay.

    Source:
        design, section 2b.

    Args:
        model: any; embeddings are its nn.Embedding and nn.EmbeddingBag modules.

    Returns:
        their weights in model order, each once, with those that a head shares.

    Examples:
        >>> import compsgd, torch
        >>> model = torch.nn.Sequential(torch.nn.Embedding(100, 8), torch.nn.Linear(8, 2))
        >>> tables = compsgd.embedding_parameters(model)
        >>> [tuple(table.shape) for table in tables]
        [(100, 8)]
        >>> groups = [
        ...     {"params": tables, "exempt": True},
        ...     {"params": [p for p in model.parameters() if all(p is not t for t in tables)]},
        ... ]
        >>> optimizer = compsgd.CompressedSGDVote(groups, lr=1e-3, momentum=0.9)
        >>> len(optimizer.voted_parameters)
        2
    """
    kinds = nn.Embedding, nn.EmbeddingBag
    found = {id(one.weight): one.weight for one in model.modules() if isinstance(one, kinds)}
    return list(found.values())
