"""Captions as a language model reads them: a user's message, in the chat template that the tokenizer brings."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from limner.errors import PriorError
from limner.priors.folder import DiffusersFolder
from limner.types import Tokens


class ChatTokenizer:
    """A tokenizer whose captions are each the one message of a chat, up to where the answer begins.

    Attributes:
        plain: the same without the chat.

    Args:
        num_tokens: length that chats are padded to and cut at.
        thinking: whether the answer may begin with thoughts; where it may not, the template closes them at once.

    Raises:
        PriorError: the tokenizer has no chat template.
    """

    def __init__(self, folder: DiffusersFolder, part: str, num_tokens: int, thinking: bool) -> None:
        self.plain, self._thinking = folder.tokenizer(part, num_tokens), thinking
        if self.plain.stock.chat_template is None:
            raise PriorError(f"{folder.path / part} has no chat template.", "give a complete diffusers folder")
        before = self._chat("\0").partition("\0")[0]
        self._num_before = len(self.plain.stock(before).input_ids)

    def ids(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(ids_BL, mask_BL bool, true where a token is no padding), L = ``num_tokens``."""
        return self.plain.ids([self._chat(caption) for caption in captions])

    def count(self, caption: str) -> Tokens:
        """How the caption itself is read. A long one pushes out the template's end, not the other way round."""
        return self.plain.count(caption, num_more=self._num_before)

    def _chat(self, caption: str) -> str:
        return self.plain.stock.apply_chat_template(
            [{"role": "user", "content": caption}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self._thinking,
        )
