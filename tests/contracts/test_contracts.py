"""What crosses borders: ids, settings, states."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import errors, failures
from contracts.errors import DarkroomError, SettingsError
from contracts.ids import created_at, is_job_id, new_job_id, shard_of
from contracts.moderation_settings import SecondLookSettings
from contracts.requests import MAX_SEED, GenerationRequest
from contracts.search_settings import SearchSettings
from contracts.settings import ApiSettings, BackendSettings, WebhookSettings, WorkerSettings


@given(st.floats(0, 4e9), st.sampled_from("0123456789abcdef"))
def test_an_id_carries_its_time_and_shard(now_s: float, shard: str) -> None:
    job_id = new_job_id(now_s, shard)
    assert is_job_id(job_id)
    assert shard_of(job_id) == shard
    assert created_at(job_id) == pytest.approx(now_s, abs=0.0011)


@given(st.floats(1e9, 2e9), st.floats(0.01, 1e6))
def test_ids_sort_by_time(now_s: float, later_s: float) -> None:
    assert new_job_id(now_s, "f") < new_job_id(now_s + later_s, "0")


@given(st.integers(0, 30), st.characters(exclude_characters="_0123456789abcdefghijklmnopqrstuvwxyz"))
def test_what_is_no_id_is_not_taken_for_one(at: int, strange: str) -> None:
    """One character of another alphabet, one that is missing, or one too many, wherever it stands."""
    job_id = new_job_id(1.0, "a")
    assert len(job_id) == 31
    before, after = job_id[:at], job_id[at + 1 :]
    assert not is_job_id(before + strange + after)
    assert not is_job_id(before + after)
    assert not is_job_id(before + job_id[at] * 2 + after)
    assert not is_job_id(job_id + "\n")


@pytest.mark.parametrize("letter", "ilou")
def test_an_id_has_no_letter_that_looks_like_a_digit(letter: str) -> None:
    for at in range(4, 30):
        job_id = new_job_id(1.0, "a")
        assert not is_job_id(job_id[:at] + letter + job_id[at + 1 :])


def test_settings_come_from_the_environment_and_go_back_into_it() -> None:
    settings = WorkerSettings.from_env(
        {"DARKROOM_MODEL": "a/b", "DARKROOM_MAX_BATCH": "3", "DARKROOM_DEVICE": ""}
    )
    assert (settings.model, settings.max_batch, settings.device) == ("a/b", 3, "auto")
    assert WorkerSettings.from_env(settings.to_env()) == settings
    assert BackendSettings.from_env({"DARKROOM_BLOB_DIR": "/x"}).blob_dir == Path("/x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("MAX_WAIT_S", "-1"),
        ("REDIS_TIMEOUT_S", "nan"),
        ("LOG_LEVEL", "loud"),
        ("MAX_BODY_BYTES", "0"),
    ],
)
def test_a_bad_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"DARKROOM_{name}"):
        ApiSettings.from_env({f"DARKROOM_{name}": value})


def test_every_error_has_a_code_of_its_own_and_a_status() -> None:
    tree = [
        each
        for each in (vars(errors) | vars(failures)).values()
        if isinstance(each, type) and issubclass(each, DarkroomError)
    ]
    leaves = [each for each in tree if not each.__subclasses__()]
    codes = [each.code for each in leaves if each not in (errors.InternalError, errors.InvalidRequest)]
    assert len(set(codes)) == len(codes)
    assert all(400 <= each.status < 600 for each in tree)


@given(st.integers(0, MAX_SEED), st.integers(0, 8))
def test_image_seeds_stay_in_range(seed: int, index: int) -> None:
    request = GenerationRequest(
        model="m", prompt="p", width=8, height=8, num_inference_steps=1, guidance_scale=0.0, seed=seed
    )
    assert 0 <= request.image_seed(index) <= MAX_SEED


@pytest.mark.parametrize(
    "kind", [ApiSettings, WorkerSettings, WebhookSettings, SearchSettings, SecondLookSettings]
)
def test_a_setting_of_all_processes_is_declared_once(kind: type[BackendSettings]) -> None:
    assert not set(kind.__annotations__) & set(BackendSettings.model_fields)
