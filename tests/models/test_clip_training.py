"""The CLIP's loss, batches and views, on little data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from models.recipe import clip_batches, clip_network, data, drawn, queries, views
from tests.models.test_folder import MODELS

CONCEPTS = (data.Concept("apple", "1f34e", ("fruit",)), data.Concept("cat", "1f431", ()))


@pytest.fixture(scope="module")
def emoji() -> data.EmojiSet:
    rng = np.random.default_rng(0)
    return data.EmojiSet(CONCEPTS, rng.integers(0, 255, (2, 2, 192, 192, 4), np.uint8))


def test_positives_rank_above_negatives_and_do_not_compete() -> None:
    logits = torch.tensor([[9.0, 2.0, 0.0, -50.0]])
    positive = torch.tensor([[True, True, False, False]])
    loss = clip_network.ranked(logits, positive, ~positive)
    alone = [
        torch.nn.functional.cross_entropy(torch.tensor([[x, 0.0, -50.0]]), torch.tensor([0]))
        for x in (9.0, 2.0)
    ]
    assert loss.item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-4)
    # What is neither has no part; a row without a positive does not count.
    logits = torch.cat([logits, torch.full((1, 4), 7.0)])
    positive = torch.cat([positive, torch.zeros(1, 4, dtype=torch.bool)])
    negative = torch.tensor([[False, False, True, False], [True] * 4])
    again = clip_network.ranked(logits, positive, negative)
    assert again.item() == pytest.approx(loss.item(), rel=1e-4)


def test_a_batch_holds_pairs_and_no_held_out_combination(emoji: data.EmojiSet) -> None:
    asked = drawn.requests(emoji)
    assert not [r for r in asked if data.held_out(CONCEPTS[r.concept].name, list(data.COLOURS)[r.colour])]
    rows = np.array([(r.concept, r.colour, r.style, 0) for r in asked])
    made = drawn.Drawn(np.zeros((len(rows), 64, 64, 3), np.uint8), rows)
    pool = clip_batches.Pool(emoji, made)
    identities: set[int] = set()
    for step in range(40):
        batch = pool.batch(np.random.default_rng(step), step)
        assert batch.pictures.shape == (4, 3, 64, 64)
        assert batch.attributes[:, 0].tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
        assert not [
            row
            for row in batch.attributes
            if data.held_out(CONCEPTS[row[0]].name, list(data.COLOURS)[row[1]])
        ]
        identities |= set(batch.identity.tolist())
    assert min(identities) < 0 <= max(identities), "renders and drawn pictures"
    without = clip_batches.Pool(emoji, None).batch(np.random.default_rng(0), 0)
    assert int(without.identity.max()) < 0


def test_every_picture_fits_a_query_of_its_batch(emoji: data.EmojiSet) -> None:
    rng = np.random.default_rng(3)
    batch = clip_batches.Pool(emoji, None).batch(rng, 0)
    asked = clip_batches.written(queries.Writer(CONCEPTS), rng, batch.attributes)
    fit = queries.fits(asked, batch.attributes)
    assert fit[len(CONCEPTS) :].diagonal().all(), "each full query fits the picture that it was written for"
    assert fit[: len(CONCEPTS)].any(0).all(), "and a short one names the thing"


def test_views_stay_pictures_and_differ() -> None:
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    pictures = torch.stack([rows, columns, rows * columns]).expand(32, -1, -1, -1).contiguous()
    for view in (views.light, views.strong):
        seen = view(pictures)
        assert seen.shape == pictures.shape
        assert seen.isfinite().all()
        assert (seen - pictures).abs().mean() < 0.2
    assert len({round(float(x), 4) for x in views.strong(pictures).mean((1, 2, 3))}) > 20
    assert (views.halved(pictures) - pictures).abs().mean() < 0.02
    assert (views.as_jpeg(pictures[0], 90) - pictures[0]).abs().mean() < 0.02


def test_all_patches_are_what_the_library_sees_and_half_of_them_is_near() -> None:
    model = CLIPModel.from_pretrained(MODELS / "emoji-clip", local_files_only=True).float().eval()
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs = model.get_image_features(pixel_values=pictures * 2 - 1).pooler_output
        assert torch.allclose(
            clip_network.embed_images(model, pictures), torch.nn.functional.normalize(theirs), atol=1e-5
        )
        half = clip_network.embed_images(model, pictures, clip_network.PATCHES // 2)
    assert half.norm(dim=1) == pytest.approx([1.0, 1.0], abs=1e-5)
