"""What reading a selection of a long input costs, and what it finds: one script a question.

    python -m benchmarks.long_inputs.planted_facts --data DIR --out runs/planted

Scripts write a JSON line for each measurement and go on where they were interrupted. `--data` is a
folder of data sets, a folder each (`eval_longctx_pd/w08000.jsonl.zst`).
"""
