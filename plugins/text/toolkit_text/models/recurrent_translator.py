"""A recurrent network that reads a text and, with attention, writes another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from toolkit.attention import Need, Pattern, Weights, padding
from toolkit.attention.layer import mechanism_of
from toolkit.attention.mechanism import AttentionOutput, Buildable, Mechanism
from toolkit.binding import Positive, Probability
from toolkit.errors import CapabilityError, RecipeError
from toolkit_text.data.pair_batch import PairBatch
from toolkit_text.models.translator import PairEmbedding, PairSpec

Looks = Literal["before", "after"]


@dataclass
class Read:
    """What a decoder attends to: the annotations of the source, projected once for all steps.

    Shapes: k (B, heads, L, D), v (B, heads, L, Dv), lengths (B,), last (B, context): the last states of the encoder.
    """

    k: Tensor
    v: Tensor
    lengths: Tensor
    last: Tensor
    pattern: Pattern | None = None

    def reorder(self, samples: Tensor) -> Read:
        lengths = self.lengths[samples]
        return Read(self.k[samples], self.v[samples], lengths, self.last[samples], padding(lengths))


@dataclass
class Written:
    """What a decoder keeps from step to step.

    Shapes: hidden (B, hidden), readout (B, dim): what it last scored tokens by. looked: the mechanism's own state.
    """

    hidden: Tensor
    readout: Tensor
    looked: Any = None

    def reorder(self, samples: Tensor) -> Written:
        looked = self.looked[samples] if isinstance(self.looked, Tensor) else self.looked
        return Written(self.hidden[samples], self.readout[samples], looked)


class RecurrentTranslator(nn.Module):
    """A bidirectional GRU reads; a GRU writes, and looks at what was read by any attention mechanism.

    looks: `before` asks by the state before a token is taken in, and what it sees goes into the GRU (Bahdanau);
    `after` asks by the state after it, so that all steps of training run at once (Luong). input_feeding: with `after`,
    what the last token was scored by goes into the GRU too, one step after another.
    attention: None sees the encoder's last states in its place, the same at every step.
    dim: of token vectors, and of what tokens are scored by. hidden: units of the decoder, and of both directions of the
    encoder together. num_layers: of the encoder. heads: of the attention. tied: one matrix for target tokens and
    scores, and for source tokens where the vocabulary is joint. dropout: rate on token vectors, on what was read, and
    on what tokens are scored by.
    Raises: RecipeError for sizes that do not divide; CapabilityError for a mechanism that has queries and keys share
    weights, or places queries among the keys.
    Source: Bahdanau et al. 2014, arXiv:1409.0473, sec. 3 and A.1 (readout: one tanh layer in maxout's place); Luong et
    al. 2015, arXiv:1508.04025, sec. 3; no attention: Cho et al. 2014, arXiv:1406.1078.
    """

    def __init__(
        self,
        *,
        tokens: PairSpec,
        attention: Buildable | None = None,
        dim: Positive = 256,
        hidden: Positive = 256,
        num_layers: Positive = 1,
        heads: Positive = 1,
        looks: Looks = "before",
        input_feeding: bool = False,
        dropout: Probability = 0.3,
        tied: bool = True,
    ) -> None:
        super().__init__()
        if hidden % 2 or hidden % heads:
            raise RecipeError(f"model.hidden={hidden} is shared by two directions and model.heads={heads}: it divides")
        if input_feeding and looks == "before":
            raise RecipeError("model.input_feeding belongs to model.looks=after: before, the GRU has seen already")
        self.heads, self.looks, self.input_feeding = heads, looks, input_feeding
        self.embedding = PairEmbedding(tokens=tokens, dim=dim, tied=tied, dropout=dropout)
        between = dropout if num_layers > 1 else 0.0
        self.encoder = nn.GRU(
            dim, hidden // 2, num_layers=num_layers, batch_first=True, bidirectional=True, dropout=between
        )
        self.start_state = nn.Linear(hidden, hidden)
        self.mechanism: Mechanism | None = None
        if attention is not None:
            self.mechanism = mechanism_of(attention.build(heads=heads, dim=hidden // heads), heads, hidden // heads, {})
            _check(self.mechanism)
            self.query = nn.Linear(hidden, hidden, bias=False)
            self.key = nn.Linear(hidden, hidden, bias=False)
        self.fed = hidden if looks == "before" else dim if input_feeding else 0
        self.decoder = nn.GRU(dim + self.fed, hidden, batch_first=True)
        self.readout = nn.Linear(2 * hidden + dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: PairBatch) -> Tensor:
        """Return the scores of each target token that is there, pair after pair. Shapes: (S, V)."""
        written = self._walk(batch, None)[0][: len(batch.target)]
        return self.embedding.scores(self.dropout(written[batch.written]))

    def attention_weights(self, batch: PairBatch, need: Need | None = None) -> list[Weights]:
        """Return how much of each source token each step sees, if attention looks. Shapes: (B, heads, T, L)."""
        if self.mechanism is None:
            return []
        need = need or Need()
        with torch.set_grad_enabled(need.gradient):
            return [chosen(self._walk(batch, replace(need, rows=None, received=False, weights=True))[1], need)]

    def begin(self, batch: PairBatch, longest: int) -> RecurrentWriting:
        """Read the sources, and return what writes after the begin's mark."""
        return RecurrentWriting(self, batch)

    # Reading --------------------------------------------------------------------------------------------------------

    def read(self, batch: PairBatch) -> tuple[Read, Written]:
        """Return what the decoder attends to, and the state that it starts from."""
        x = self.embedding.source(batch.source)
        packed = pack_padded_sequence(x, batch.source_lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, last = self.encoder(packed)
        states = self.dropout(pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])[0])
        last = last[-2:].transpose(0, 1).flatten(1)  # both directions of the last layer
        k = v = self._split(states)
        if self.mechanism is not None:
            k = self._split(self.key(states))
            v = k if self.mechanism.projections == "shared_kv" else v
        hidden = torch.tanh(self.start_state(last))
        readout = hidden.new_zeros(len(hidden), self.readout.out_features)
        return Read(k, v, batch.source_lengths, last, batch.source_pattern), Written(hidden, readout)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, L, D)

    # Writing --------------------------------------------------------------------------------------------------------

    def _walk(self, batch: PairBatch, need: Need | None) -> tuple[Tensor, list[Weights]]:
        """Return what each token is scored by. Shapes: (B, T, dim)."""
        read, state = self.read(batch)
        return self.write(self.embedding.target(batch.previous), read, state, need)[:2]

    def write(
        self, x: Tensor, read: Read, state: Written, need: Need | None = None
    ) -> tuple[Tensor, list[Weights], Written]:
        """Take in tokens. Shapes: x (B, T, dim) -> what the token after each is scored by (B, T, dim)."""
        return self._write_at_once(x, read, state, need) if not self.fed else self._write_in_steps(x, read, state, need)

    def _write_at_once(
        self, x: Tensor, read: Read, state: Written, need: Need | None
    ) -> tuple[Tensor, list[Weights], Written]:
        hidden, last = self.decoder(x, state.hidden[None].to(x.dtype))
        context, seen, looked = self._look(hidden, read, state.looked, need)
        readout = torch.tanh(self.readout(torch.cat([hidden, context, x], -1)))
        return readout, seen, Written(last[0], readout[:, -1], looked)

    def _write_in_steps(
        self, x: Tensor, read: Read, state: Written, need: Need | None
    ) -> tuple[Tensor, list[Weights], Written]:
        cell: Any = self.decoder
        of_input, of_hidden = cell.weight_ih_l0, cell.weight_hh_l0
        of_token, of_fed = of_input.split((x.shape[2], self.fed), 1)
        gates = F.linear(x, of_token, cell.bias_ih_l0).unbind(1)  # what does not wait for the step before
        hidden, readout, looked = state.hidden, state.readout, state.looked
        states, contexts, readouts, seen = [], [], [], []
        for step, gate in enumerate(gates):
            context = None
            if self.looks == "before":
                context, found, looked = self._look(hidden[:, None], read, looked, need)
                fed = context[:, 0]
                seen += found
            else:
                fed = readout
            hidden = gated(gate + F.linear(fed, of_fed), F.linear(hidden, of_hidden, cell.bias_hh_l0), hidden)
            if context is None:
                context, found, looked = self._look(hidden[:, None], read, looked, need)
                seen += found
                readout = torch.tanh(self.readout(torch.cat([hidden, context[:, 0], x[:, step]], -1)))
                readouts.append(readout)
            else:
                states.append(hidden)
                contexts.append(fed)
        if readouts:
            return torch.stack(readouts, 1), seen, Written(hidden, readout, looked)
        whole = torch.tanh(self.readout(torch.cat([torch.stack(states, 1), torch.stack(contexts, 1), x], -1)))
        return whole, seen, Written(hidden, whole[:, -1], looked)

    def _look(self, hidden: Tensor, read: Read, looked: Any, need: Need | None) -> tuple[Tensor, list[Weights], Any]:
        """Return what is seen by states. Shapes: hidden (B, T, hidden) -> (B, T, hidden)."""
        if self.mechanism is None:
            return read.last[:, None].expand(-1, hidden.shape[1], -1), [], None
        q = self._split(self.query(hidden))
        output: AttentionOutput = self.mechanism(q, read.k, read.v, read.pattern, state=looked, need=need)
        context = output.values.transpose(1, 2).flatten(2)
        # a state of keys would take in the source again at every step
        looked = output.state if self.mechanism.capabilities.state == "queries" else None
        return context, [] if output.weights is None else [output.weights], looked


def _check(mechanism: Mechanism) -> None:
    """Raises: CapabilityError for a mechanism that cannot be between a decoder's states and an encoder's."""
    fit = "additive, luong, location_aware and scaled_dot_product do"
    if mechanism.projections == "shared":
        raise CapabilityError(
            f"{mechanism.name} projects queries and keys with the same weights, and a decoder's states and an "
            f"encoder's share none; {fit} without"
        )
    predicts = getattr(mechanism, "local", "") == "predictive"  # luong: the place follows from what the query holds
    if mechanism.positional and mechanism.capabilities.state != "queries" and not predicts:
        raise CapabilityError(
            f"{mechanism.name} places the last query at the last key, but a translation does not stand where its "
            f"source does; {fit} not"
        )


class RecurrentWriting:
    """A recurrent translator in the middle of writing. See `Decoder`."""

    def __init__(self, model: RecurrentTranslator, batch: PairBatch) -> None:
        self.model = model
        self.read, self.state = model.read(batch)

    def advance(self, tokens: Tensor) -> Tensor:
        x = self.model.embedding.target(tokens)
        readout, _, self.state = self.model.write(x, self.read, self.state)
        return self.model.embedding.scores(readout[:, -1])

    def reorder(self, samples: Tensor) -> None:
        self.read, self.state = self.read.reorder(samples), self.state.reorder(samples)


def gated(of_input: Tensor, of_hidden: Tensor, hidden: Tensor) -> Tensor:
    """Return the next state of a GRU from both sums of its gates, as torch's GRU orders them.

    Shapes: of_input, of_hidden (B, 3 hidden), hidden (B, hidden). Source: arXiv:1406.1078, eq. 5 to 8.
    """
    reset_update, new = of_input.split((2 * hidden.shape[1], hidden.shape[1]), 1)
    own_reset_update, own_new = of_hidden.split((2 * hidden.shape[1], hidden.shape[1]), 1)
    reset, update = torch.sigmoid(reset_update + own_reset_update).chunk(2, 1)
    candidate = torch.tanh(torch.addcmul(new, reset, own_new))
    return torch.lerp(candidate, hidden, update)


def chosen(steps: list[Weights], need: Need) -> Weights:
    """Join the weights of steps, and choose what is needed of them."""
    values = torch.cat([each.values for each in steps if each.values is not None], 2)
    rows = None if need.rows is None else torch.as_tensor(need.rows, device=values.device)
    values = values if rows is None else values.index_select(2, rows)
    return Weights(
        pattern=steps[0].pattern,
        values=values if need.weights else None,
        received=values.sum(2) if need.received else None,
        rows=rows,
        heads=steps[0].heads,
    )
