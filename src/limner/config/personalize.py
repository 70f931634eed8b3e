"""The fields of a run that teaches a prior one subject, several, or a style. Needs no torch."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from limner.config.fields import Closed, MethodConfig

OF_ONE = re.compile(r"[\s,;:]*\{(?!trigger\}|class_word\})\w+\}[\s,;:]*")  # said of one picture, such as {caption}
PREPOSITIONS = {"as", "at", "beside", "by", "featuring", "from", "in", "like", "of", "on", "showing", "under", "with"}
PLACE = re.compile(r"\{trigger\}\s*\{class_word\}|\{trigger\}|\{class_word\}")


class Concept(Closed):
    """One thing to learn: its pictures, the word that shall stand for it, and what kind of thing it is."""

    trigger: str = Field(min_length=1, description="the word that stands for it")
    class_word: str = Field("", description="what kind of thing it is, such as dog")
    data: str = Field(description="its pictures: a folder, or whatever --data takes")
    weight: float = Field(1.0, gt=0, description="how much it counts beside the other concepts")

    @property
    def words(self) -> str:
        """What is said of it in a prompt: 'sks dog'."""
        return f"{self.trigger} {self.class_word}".strip()


class PersonalizeConfig(MethodConfig):
    """What the methods that learn a subject have in common."""

    data: str = Field("subjects:tiger", description="pictures of the subject, 3 to 30: a folder, or a data set's name")
    trigger: str = Field("sks", description="the word that shall stand for the subject; best one that means nothing")
    concepts: tuple[Concept, ...] = Field(
        (), description="several subjects at once, each with its own data: 'sks cat=pics/cat, zwx dog=pics/dog'"
    )  # fmt: skip
    caption_from: Literal["data", "name", "template"] = Field(
        "template", description="where captions come from; in the data's the trigger is put before the class word"
    )
    caption_template: str = Field(
        "a photo of {trigger} {class_word}",
        description="for caption_from=template, for prompts and class pictures; also {caption}, {name}, any column",
    )

    adapter: Literal["full", "lora", "dora", "lokr", "loha", "oft"] = Field(
        "lora", description="what of the network learns: all, or a small addition of this kind"
    )
    steps: int = Field(600, ge=1, description="optimiser steps, at most")
    flip: bool = Field(False, description="mirror every second picture; of most subjects the sides are part")
    learning_rate: float = Field(
        default_factory=lambda given: 5e-6 if given.get("adapter") == "full" else 1e-4,
        gt=0,
        description="of AdamW, after warm-up; default: 1e-4 for an adapter, 5e-6 for the whole network; a small prior "
        "such as mini wants some 3e-3 and 1e-3",
    )
    batch_size: int = Field(4, ge=1, description="pictures of the subject that a process sees at once")

    preservation: Literal["pictures", "teacher", "off"] = Field(
        "pictures", description="keep what the prior knows of the class: on pictures of the class, drawn before the "
        "run; or by the untrained prior's own predictions, which need none"
    )  # fmt: skip
    preservation_weight: float = Field(1.0, ge=0, description="of that, beside the loss on the subject")
    class_pictures: int = Field(100, ge=1, description="pictures of each class that are drawn")
    regularisation: str | None = Field(
        None, description="pictures of the class of your own, or any captioned ones, instead of drawn ones"
    )
    min_snr_gamma: float | None = Field(
        None, ge=0, description="loss weights by noise level (min-SNR), for priors that say the noise or v; 0 is none; "
        "default: 5 for the noise, none for v"
    )  # fmt: skip
    timesteps: Literal["uniform", "logit_normal"] | None = Field(
        None, description="training times; default: logit_normal, shifted as the prior says, for flow, else uniform"
    )
    noise_bias: float = Field(
        1.0, gt=0, description="uniform times t get a density ~ t^(noise_bias - 1): above 1 leans to noise, to shape"
    )

    prompts: tuple[str, ...] = Field(
        (), description="contexts that each checkpoint is scored in, with {} for the subject, | between; default: the "
        "prior's own"
    )  # fmt: skip
    caption_dropout: float = Field(0.0, ge=0, le=1, description="share of captions replaced by the empty one")
    evaluate_every: int = Field(150, ge=1, description="steps between scores on pictures drawn of the subject")
    eye: str = Field(
        "eye", description="what compares pictures and texts in scores: 'eye' (limner's own, for drawn things), or the "
        "folder of a CLIP model"
    )  # fmt: skip
    score_pictures: int = Field(4, ge=2, description="pictures drawn of each prompt for a score")

    @property
    def subjects(self) -> tuple[Concept, ...]:
        """What is learnt, however it was given."""
        return self.concepts or (Concept(trigger=self.trigger, class_word=self.class_word, data=self.data, weight=1),)

    @field_validator("concepts", mode="before")
    @classmethod
    def _read_concepts(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        found = list[dict[str, str]]()
        for part in filter(None, (part.strip() for part in given.split(","))):
            words, equals, data = part.partition("=")
            trigger, _, class_word = words.strip().partition(" ")
            if not (equals and trigger and data.strip()):
                raise ValueError(f"'{part}' is not written as 'sks cat=photos/cat'")
            found.append({"trigger": trigger, "class_word": class_word.strip(), "data": data.strip()})
        return found

    @field_validator("prompts", mode="before")
    @classmethod
    def _read_prompts(cls, given: Any) -> Any:
        return [part.strip() for part in given.split("|") if part.strip()] if isinstance(given, str) else given

    @field_validator("prompts")
    @classmethod
    def _prompts_have_a_place(cls, given: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if wrong := [prompt for prompt in given if prompt.count("{}") != 1]:
            raise ValueError(f"'{wrong[0]}' needs one {{}} where the subject stands")
        return given

    @model_validator(mode="after")
    def _check_subjects(self) -> Self:
        triggers = [concept.trigger for concept in self.subjects]
        if not all(triggers):
            raise ValueError("trigger is empty, and stands for the subject")
        if double := {word for word in triggers if triggers.count(word) > 1}:
            raise ValueError(f"two concepts have the trigger '{min(double)}'")
        if self.preservation != "off" and not (self.regularisation and self.preservation == "pictures"):
            for concept in self.subjects:
                if not concept.class_word:
                    raise ValueError(
                        f"no class_word says what kind of thing '{concept.trigger}' is",
                        "give --class-word dog, or what it is; without one, --preservation off",
                    )
        if self.timesteps == "logit_normal" and self.noise_bias != 1:
            raise ValueError("noise_bias is for uniform times: leave timesteps out")
        if self.regularisation and self.preservation != "pictures":
            raise ValueError(f"regularisation is for preservation pictures, and that is {self.preservation}")
        own = {name: type(self).model_fields[name].default for name in ("data", "trigger", "class_word")}
        if self.concepts and any(getattr(self, name) != default for name, default in own.items()):
            raise ValueError("concepts bring their own data, trigger and class_word")
        if self.stream:
            raise ValueError("stream is for data too large to number, and a subject has a few pictures")
        return self


def told(template: str, words: str) -> str:
    """A caption template with words in the place of the trigger and the class word."""
    return PLACE.sub(lambda _: words, template)


def class_prompt(template: str, class_word: str) -> str:
    """What is said of anything of the class: 'a photo of a dog', 'the dog' where the template says 'the'."""

    def fill(found: re.Match[str]) -> str:
        if found[1]:
            return f"{found[1]} {class_word}" if found[1].lower() == "the" else with_article(class_word)
        before = found.string[: found.start()].split()
        described = before and before[-1].isalpha() and before[-1].lower() not in PREPOSITIONS
        return class_word if described else with_article(class_word)

    general = OF_ONE.sub(" ", template).strip()
    said = re.sub(rf"(?:\b(an?|the)\s+)?(?:{PLACE.pattern})", fill, general, flags=re.IGNORECASE)
    return said if class_word in said else f"a photo of {with_article(class_word)}"


def with_article(words: str) -> str:
    """'a dog', 'an avocado'."""
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"
