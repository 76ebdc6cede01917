"""`voicepool doctor`: what this host has, what each profile needs, and how many workers would fit.

Looking and judging are apart. `host`, `cuda` and `engines` look, the last two in child processes
(`child`) that may hang or crash; `judge`, `judgegpu` and `fit` make findings of what was seen, and
are pure; `report` shows them. `command` ties the two together.
"""
