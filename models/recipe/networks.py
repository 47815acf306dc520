"""The shapes of the shipped networks: text encoder, UNet, scheduler."""

from __future__ import annotations

import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from models.recipe import common

WIDTH = 128
TIMESTEPS = 1000


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained text encoder for the tokenizer's words."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=common.TOKENS,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def unet() -> UNet2DConditionModel:
    """An untrained UNet; the text reaches it by cross-attention and by the time embedding."""
    model = UNet2DConditionModel(
        sample_size=16,
        in_channels=common.CHANNELS,
        out_channels=common.CHANNELS,
        layers_per_block=1,
        block_out_channels=(48, 96, 192),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        time_embedding_dim=384,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    # The fused attention is several times slower than plain products at these tiny sizes.
    model.set_attn_processor(AttnProcessor())
    return model


def scheduler() -> EulerDiscreteScheduler:
    """The sampler of both models: trailing timesteps, so that one step starts at t = 999."""
    return EulerDiscreteScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
        timestep_spacing="trailing",
    )


def sigmas() -> torch.Tensor:
    """The noise level of every training timestep: (TIMESTEPS,), rising."""
    alphas = scheduler().alphas_cumprod
    return ((1 - alphas) / alphas) ** 0.5


def denoise(
    model: UNet2DConditionModel,
    noisy: torch.Tensor,
    timesteps: torch.Tensor,
    words: torch.Tensor,
    levels: torch.Tensor,
) -> torch.Tensor:
    """The clean latents that a v-prediction implies, as the Euler step to sigma 0 gives them.

    `noisy` is clean + sigma x noise, (B, 4, h, w); `levels` holds sigma of every timestep.
    """
    sigma = levels[timesteps].view(-1, 1, 1, 1)
    square = sigma.square() + 1
    seen = model(noisy / square.sqrt(), timesteps, words, return_dict=False)[0].float()
    return seen * (-sigma / square.sqrt()) + noisy / square
