"""How fast voicepool is, measured against a reference in the same run.

`python -m benchmarks ROW...` takes figures and prints a table; `--json FILE` keeps them. Every
reference is sampled alternately with voicepool, so that noise of the machine hits both, and ratios
are only taken within one run. docs/benchmarks.md says what each row means.
"""
