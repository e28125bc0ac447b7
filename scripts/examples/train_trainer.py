"""Hugging Face's Trainer with voted gradients: a callback more.

pip install transformers accelerate
torchrun --nproc_per_node 2 scripts/examples/train_trainer.py

A small GPT-2 learns sequences of numbers that go up by a constant.
"""

import argparse

import torch
from torch.utils.data import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from compsgd.comm import register_vote_hook


class Counting(Dataset):
    """Numbers that go up by a constant: what comes next can be learned."""

    def __len__(self):
        return 512

    def __getitem__(self, index):
        tokens = (index + torch.arange(16) * (1 + index % 3)) % 32
        return {"input_ids": tokens, "labels": tokens}


class Vote(TrainerCallback):
    """Lets the workers vote as soon as the model is in its DistributedDataParallel."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.votes = register_vote_hook(
            trainer.model_wrapped, optimizer=kwargs["optimizer"], num_bits=3, scale="mean_abs",
            momentum=0.9, decay_min=0.99, decay_max=0.99, exempt_1d=True,
        )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", default="trainer_output", help="Trainer's folder.")
    asked = parser.parse_args()
    # Momentum is in the vote, and so not in Adam; gradients of two batches make a vote.
    arguments = TrainingArguments(
        output_dir=asked.out, use_cpu=True, ddp_backend="gloo", max_steps=asked.steps,
        per_device_train_batch_size=8, gradient_accumulation_steps=2, learning_rate=3e-3,
        adam_beta1=0.0, adam_beta2=0.99, logging_steps=10, save_strategy="no", report_to=[],
        disable_tqdm=True, seed=0,
    )  # fmt: skip
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2}
    config = GPT2Config(vocab_size=32, n_positions=16, **shape, bos_token_id=0, eos_token_id=0)
    vote = Vote()
    trainer = Trainer(
        GPT2LMHeadModel(config), arguments, train_dataset=Counting(), callbacks=[vote]
    )
    trainer.train()
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        print(f"loss {float(losses[0]):.3f} -> {float(losses[-1]):.3f}")
        print(vote.votes.summary())
