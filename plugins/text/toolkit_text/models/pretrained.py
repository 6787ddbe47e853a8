"""A pretrained encoder with a new last layer, to be fine-tuned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.attention.dropout import Dropout
from toolkit.binding import Probability
from toolkit.errors import RecipeError
from toolkit_text.data.batch import TextBatch
from toolkit_text.data.tokens import TokenSpec
from toolkit_text.models.pooling import Pooling, pool
from toolkit_text.pretrained import CODE, encoder_named


class PretrainedClassifier(nn.Module):
    """The encoder whose tokenizer the data uses, from the library `transformers`, and a linear layer.

    tokens: its `encoder` is the name and the configuration that the data's spec holds, so that a trained run needs no
    files of the encoder's. Training starts from its weights. freeze: train the last layer only. dropout: rate on what
    goes into it.
    Raises: RecipeError where the data's tokenizer is not that of a pretrained encoder.
    """

    def __init__(
        self,
        *,
        classes: int,
        tokens: TokenSpec,
        pooling: Pooling = "mean",
        dropout: Probability = 0.1,
        freeze: bool = False,
    ) -> None:
        super().__init__()
        encoder = tokens.encoder
        if encoder is None:
            raise RecipeError(
                "model text:pretrained fine-tunes the encoder whose tokenizer the data uses; name it with "
                "data.tokenizer=minilm, a folder, or a repository of the Hugging Face hub"
            )
        from transformers import AutoConfig, AutoModel

        self.name = encoder["name"]
        settings = {key: value for key, value in encoder["config"].items() if key not in CODE}
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        if config.is_encoder_decoder:
            raise RecipeError(f"{self.name} is an encoder with a decoder; model text:pretrained takes encoders alone")
        self.encoder = AutoModel.from_config(config)
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None  # trained for sentence pairs, and not read here
        self.encoder.requires_grad_(not freeze)
        self.freeze, self.pooling = freeze, pooling
        self.dropout = Dropout(dropout)
        self.classify = nn.Linear(config.hidden_size, classes)

    def start(self) -> None:
        """Load the encoder's weights. Raises: SourceError or DataError when they cannot be had or do not fit."""
        found = encoder_named(self.name)
        assert found is not None
        own = self.encoder.state_dict()
        weights = {name: each for name, each in found.weights().items() if name in own}
        missing = sorted(own.keys() - weights.keys())
        if missing:
            raise RecipeError(
                f"the files of {self.name} lack {len(missing)} weights of its model, such as {missing[0]}"
            )
        self.encoder.load_state_dict(weights)

    @property
    def vectors(self) -> nn.Module:
        """What gives each token its vector."""
        found: nn.Module = self.encoder.get_input_embeddings()
        return found

    def train(self, mode: bool = True) -> PretrainedClassifier:
        super().train(mode)
        if self.freeze:
            self.encoder.eval()
        return self

    def forward(self, batch: TextBatch) -> Tensor:
        """Return logits of each sequence. Shapes: (B, classes)."""
        mask = None if batch.full else batch.mask
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            x = self.encoder(input_ids=batch.tokens, attention_mask=mask).last_hidden_state
        logits: Tensor = self.classify(self.dropout(pool(x, batch.mask, self.pooling)))
        return logits
