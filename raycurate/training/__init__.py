"""Finetuning: tokens with masks by construction, the VITW loss, LoRA, DeepSpeed. `stages/finetune.py` adds Ray."""
