"""Captions as people type them: a thing that the model knows among words that it does not.

The words around the thing are moods, looks, materials, counts, requests, second sentences and
invented words. The noun itself may be a plural or misspelt. None of them changes the image, except
the words of size. One caption in eight, by a stable hash, is reserved: training never uses it, and
`benchmarks/free_prompts.py` uses reserved captions alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from transformers import CLIPTokenizer

from models.recipe import captions, common, data

MODIFIERS = """
happy angry sleepy scared proud shy calm excited lonely bored worried surprised crying laughing friendly
evil funny silly serious confused jolly gloomy cheerful curious brave tired wise polite crazy relaxed
cute beautiful pretty ugly shiny dirty clean old new young ancient modern fancy plain simple elegant
fluffy furry soft smooth rough round square long short tall fat thin broken perfect lovely nice cool
great awesome amazing wonderful magical strange weird scary spooky mysterious royal fresh juicy tasty
delicious sweet cold wet dry fast slow strong weak heavy bright dark colourful colorful striped spotted
transparent glowing sparkling flying running jumping dancing sleeping sitting standing singing swimming
walking eating waiting rusty dusty melted floating cartoon realistic vintage retro futuristic minimal
abstract detailed real good bad best favourite favorite single empty full open famous rare rich poor
lucky wild tame quiet loud busy free secret local digital electric mechanical holy cosmic tropical
wooden golden silver metal plastic leather stone marble copper velvet woolen knitted clay rubber steel
iron brass crystal concrete cardboard felt silk cotton straw
grinning weeping jealous hopeful anxious cranky bitter eager smug sulky gracious rude honest humble vain bold
timid loyal grim merry zany witty goofy naughty spoiled greedy thirsty starving dizzy sick healthy injured
bald hairy bearded skinny slim plump muscular giant massive miniature slender curved pointed hollow solid thick
narrow wide deep shallow sharp blunt slippery sticky greasy oily foggy frosty frozen icy snowy rainy sunny windy
stormy burning burnt smoky steaming boiling warm chilly dull glossy metallic reflective faded stained painted
dotted checkered plaid floral ornate decorated gilded engraved printed sewn stitched quilted woollen linen nylon
lace satin suede wicker ivory granite slate chrome tin aluminium platinum jade amber ruby emerald wax paper foam
sandy mossy leafy rotten stale salty spicy creamy crunchy roasted baked grilled boiled raw sliced peeled
enchanted cursed ghostly immortal divine sacred gothic rustic urban rural industrial scholarly official casual
sporty nocturnal lunar solar atomic ordinary normal regular common unique special precious useful useless repaired
cracked shattered torn patched battered worn weathered antique foreign exotic arctic japanese chinese roman
egyptian sideways twin double half whole blurry fuzzy vivid pastel luminous radiant shimmering spinning bouncing
crawling hiding fighting playing reading thinking dreaming snoring shouting winking blushing yawning frowning
sad-looking one-eyed two-headed hand-drawn well-known home-made
"""
COUNTS = """
two|three|four|five|eight|many|several|some|2|3|4|both|a pair of|a few|a couple of|lots of|a lot of
|eleven|thirteen|fifteen|twenty|a hundred|hundreds of|thousands of|a group of|a set of|a row of|numerous|all|these|those
|other|7|9|10|20|one or two|more|not many|too many|all the
"""
_PLACES = "small large big left right noto flat style background picture over under back down front side"
SIZES = {"tiny": "small", "little": "small", "big": "large", "huge": "large"}
OPENERS = """
draw|please draw|draw me|i want|i need|show me|make|make me|please make|can you draw|a photo of|a drawing of|an image of
|a painting of|a picture of|picture of|emoji of|an icon of|cartoon of|a sketch of|please|hello, draw|there is|here is
|i am looking for|find me|design|generate|generate an image of|imagine|produce|maybe|think of|what about|how about
|can i get|may i have|we need|get me|print|here comes|i see|i found|try|do
|this is|i like|look at|a logo with|illustration of|my friend wants|we have|this shows
"""
CLOSERS = """
please|for my friend|for a card|at night|in the morning|very detailed|high quality|best quality|4k|digital art|cartoon style
|isolated|in the garden|at home|outside|today|of my dreams|vector art|3d render|trending|close up|in the middle|by itself
|that i like|which is nice|and nothing else|in a park|that looks happy|who is angry|sitting there|, cute|, pretty|, nice
"""
SENTENCES = """
it is happy|it looks very old|make it cute|i like it a lot|thank you|it should be nice|my friend wants it|this is for a card
|it makes me laugh|i hope you like it|it is not too big|keep it simple|it is mine|that would be great|it was cheap
|i saw it today|everybody likes them|use nice colours|i need an image|we went outside today|hello there|i have an idea
|this is important|listen to me|i am bored|my friend is here
"""
ARTICLES = ("a", "a", "a", "the", "my", "one", "some", "this", "", "")
FREE_SHARE = 0.6
SEVERAL = 0.3
SLIPS = 0.3
T = TypeVar("T")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ONSETS = "b bl br c ch cl cr d dr f fl fr g gl gr h j k l m n p pl pr qu r s sc sh sl sm sn sp st str t th tr v w z"
_ENDINGS = " y ing ed ous ish ful able ic al er est ly en less ive"
_IRREGULAR = {"mouse": "mice", "tooth": "teeth", "goose": "geese", "foot": "feet"}


def _phrases(block: str) -> list[str]:
    return [phrase.strip() for phrase in block.replace("\n", "").split("|")]


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def reserved(text: str) -> bool:
    """Whether this caption is never trained: about one in eight, by a stable hash of its words."""
    words = " ".join(re.findall(r"[a-z0-9]+", text.lower()))
    return hashlib.sha256(words.encode()).digest()[0] % 8 == 0


def plural(thing: str) -> str:
    """The plural of a thing's last word: `red apples`, `mice`, `wolves`."""
    head, _, last = thing.rpartition(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        last = last if last.endswith("s") and not last.endswith("ss") else last + "es"
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    elif re.search(r"([lr]f|[^o]af)$", last):
        last = last[:-1] + "ves"
    else:
        last += "s"
    return f"{head} {last}".strip()


def misspell(rng: np.random.Generator, thing: str) -> str:
    """One slip in the longest word: two letters swapped, one dropped, doubled or replaced.

    The first letter stays. A word of less than five letters stays whole.
    """
    words = thing.split(" ")
    at = max(range(len(words)), key=lambda i: len(words[i]))
    word = words[at]
    if len(word) < 5:
        return thing
    i = int(rng.integers(1, len(word) - 1))
    slips = (
        word[:i] + word[i + 1] + word[i] + word[i + 2 :],
        word[:i] + word[i + 1 :],
        word[:i] + word[i] + word[i:],
        word[:i] + _pick(rng, _LETTERS) + word[i + 1 :],
    )
    words[at] = _pick(rng, slips)
    return " ".join(words)


def invented(rng: np.random.Generator) -> str:
    """A word of no meaning, of one to three syllables: it stands for all that is in no list."""
    onsets, endings = _ONSETS.split(), _ENDINGS.split(" ")
    syllables = [
        _pick(rng, onsets) + _pick(rng, "aeiou") + _pick(rng, ("", "n", "r", "l", "m", "t", "p", "s"))
        for _ in range(int(rng.integers(1, 4)))
    ]
    return "".join(syllables) + _pick(rng, endings)


class FreeComposer(captions.Composer):
    """Draws plain captions and, in a share of `share`, free ones."""

    def __init__(
        self, concepts: tuple[data.Concept, ...], tokenizer: CLIPTokenizer, share: float = FREE_SHARE
    ) -> None:
        super().__init__(concepts)
        self._share = share
        self._tokenizer = tokenizer
        self._known = known_words(concepts)
        self._modifiers = [word for word in modifiers() if word not in self._known]
        self._openers, self._closers = _phrases(OPENERS), _phrases(CLOSERS)
        self._sentences, self._counts = _phrases(SENTENCES), _phrases(COUNTS)
        self._names = {n for concept in concepts for n in (concept.name.lower(), *concept.synonyms)}

    def draw(self, rng: np.random.Generator, concept: int) -> captions.Request:
        """One request, plain or free. A free one is never reserved, and its thing is never cut off."""
        if rng.random() >= self._share:
            return super().draw(rng, concept)
        while True:
            request, whole = self._free(rng, concept)
            if whole and not reserved(request.caption):
                return request

    def plain(self, request: captions.Request) -> str:
        """The caption of the same request in the model's own words."""
        return captions.write(
            self.concepts[request.concept].name,
            self.colours[request.colour],
            None if request.style is None else data.STYLES[request.style],
            None if request.layout is None else data.LAYOUTS[request.layout].name,
        )

    def _free(self, rng: np.random.Generator, concept: int) -> tuple[captions.Request, bool]:
        """A free request, and whether the model's tokens reach the end of its thing."""
        entry, allowed = self.concepts[concept], self.allowed[concept]
        thing = _pick(rng, entry.synonyms) if entry.synonyms and rng.random() < 0.2 else entry.name
        several = rng.random() < SEVERAL
        noun = plural(thing) if several else thing
        if rng.random() < SLIPS:
            slip = misspell(rng, noun)
            noun = noun if slip.lower() in self._names else slip
        adjectives, layout = self._adjectives(rng, thing)
        count = _pick(rng, self._counts) if rng.random() < 0.7 else _pick(rng, ("", "the", "my"))
        article = count if several else _pick(rng, ARTICLES)
        head = " ".join(filter(None, (article, *adjectives, noun)))
        head = re.sub(r"\ba(?= [aeiou])", "an", head)
        if rng.random() < 0.4:
            head = f"{_pick(rng, self._openers)} {head}"
        if rng.random() < 0.08:
            head = f"{_pick(rng, self._sentences)}. {head}"
        tail = ""
        bare = rng.random() < 0.6 and 0 in allowed
        colour = 0 if bare else int(rng.choice(allowed))
        if not bare:
            ground = _pick(
                rng, (" on a {} background", ", {} background", " on {}", " in front of a {} background")
            )
            tail += ground.format(self.colours[colour])
        if rng.random() < 0.25:
            closer = (
                _pick(rng, self._closers) if rng.random() < 0.7 else " ".join(invented(rng) for _ in range(2))
            )
            tail += closer if closer.startswith(",") else f"{_pick(rng, (' ', ', '))}{closer}"
        if rng.random() < 0.15:
            tail += f". {_pick(rng, self._sentences)}"
        tail += _pick(rng, ("", "", "", ".", "!"))
        whole = len(self._tokenizer(head).input_ids) <= common.TOKENS
        return captions.Request(concept, colour, None, layout, head + tail), whole

    def _adjectives(self, rng: np.random.Generator, thing: str) -> tuple[list[str], int | None]:
        """Words before the noun, and the layout if one of them is a word of size."""
        words = [
            _pick(rng, self._modifiers) if rng.random() < 0.65 else invented(rng)
            for _ in range(_pick(rng, (0, 1, 1, 1, 1, 2, 2)))
        ]
        words = [word for word in words if word not in self._known]
        tinted = any(word in data.COLOURS for word in thing.split()) or "apple" in thing
        if rng.random() < 0.1 and not tinted:
            words.append(_pick(rng, self.colours))
        if rng.random() < 0.08:
            size = _pick(rng, tuple(SIZES))
            return [size, *words], [layout.name for layout in data.LAYOUTS].index(SIZES[size])
        return words, None


def modifiers() -> list[str]:
    """The words that stand before a thing and change nothing.

    Tags that name no thing are among them: the stages before this one may have taken them for names.
    """
    return list(dict.fromkeys([*MODIFIERS.split(), *sorted(data.NO_NAMES.difference(_PLACES.split()))]))


def known_words(concepts: tuple[data.Concept, ...]) -> frozenset[str]:
    """Every word in the names and synonyms of the things: such a word asks for a thing."""
    texts = [text for concept in concepts for text in (concept.name, *concept.synonyms)]
    return frozenset(re.findall(r"[a-z0-9]+", " ".join(texts).lower()))


def training_words() -> frozenset[str]:
    """Every word that the lists of this module put around a thing."""
    lists = (" ".join(modifiers()), COUNTS, " ".join(SIZES), OPENERS, CLOSERS, SENTENCES, " ".join(ARTICLES))
    return frozenset(re.findall(r"[a-z0-9]+", " ".join(lists).lower()))
