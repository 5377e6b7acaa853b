"""Draft model and qualifier for a real model: distilled from it on one CPU core, in steps.

    python -m benchmarks.real_models.students.answers MODEL --data DATA --out runs/students
    python -m benchmarks.real_models.students.teach   MODEL --data DATA --out runs/students
    python -m benchmarks.real_models.students.train   MODEL --out runs/students --minutes 30

`answers` lets the engine answer training prompts, `teach` reads answers and training texts with the
model and stores its most likely tokens, and `train` cuts both students out of the model (some of
its layers, the main directions of its hidden states) and trains them on what was stored. Each step
writes as it goes, and a second call continues it. `train` writes `qualifier/` and `draft/`, folders
with the vocabulary of the model. DATA is a folder with data sets as JSON lines; evaluation sets
(`eval_*`) are never read.
"""
