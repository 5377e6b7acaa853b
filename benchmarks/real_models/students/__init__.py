"""Draft model and qualifier for a real model: cut out of it and distilled on one CPU core.

    python -m benchmarks.real_models.students.answers MODEL --data DATA --out runs/students
    python -m benchmarks.real_models.students.train   MODEL --data DATA --out runs/students

`answers` lets the engine answer training prompts, half of them greedily. `train` cuts both students
out of the model (its first layers, the main directions of their hidden states), fits their heads by
least squares, and trains them to the model's probabilities inside of answers: its own, and those of
the data sets. The model reads each window once; its most likely tokens are stored. Both steps write
as they go, and a second call continues them. `--export-only` writes the students of the last
checkpoint.

MODEL is a folder with a Llama-shaped model, DATA one with data sets as JSON lines (`prompts.py`
names them); evaluation sets (`eval_*`) are never read. The results, `qualifier/` and `draft/`, have
the vocabulary of the model and no tokenizer, so that they are loaded beside it:

    outrider.load(MODEL, draft="runs/students/draft", qualifier="runs/students/qualifier")
"""
