"""`voicepool doctor`: what this host has, what each profile needs, and how many workers would fit;
and how voicepool stands as a service.

Looking and judging are apart. `host`, `cuda`, `engines` and `service` look, what may hang or crash
in child processes (`child`); `judge`, `judgegpu`, `judgeservice`, `judgeunit` and `fit` make
findings of what was seen, and are pure; `report` shows them. `command` ties the two together.
"""
