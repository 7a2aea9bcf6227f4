"""The tasks of a plan as Snakemake's rules; laptop_world.grid writes the plan and reads this file.

A task's stamp, FOLDER/done, is its only output for Snakemake: outputs of interrupted jobs are
deleted, and a run's folder must be kept. Ages of inputs do not count, so finished work stays.
"""

import re
from pathlib import Path


def stamp(name):
    return str(Path(config["cwd"], config["tasks"][name]["folder"], "done"))


rule all:
    input:
        [stamp(name) for name in config["tasks"]],


for place, (name, task) in enumerate(config["tasks"].items()):

    rule:
        name:
            re.sub(r"\W", "_", name)
        input:
            ancient([stamp(need) for need in task["needs"]]),
        output:
            touch(stamp(name)),
        params:
            name=name,
        priority: len(config["tasks"]) - place
        # exec: the run is Snakemake's own child and ends with it.
        shell:
            "cd {config[cwd]:q} && "
            "exec {config[python]:q} -m laptop_world.run {config[plan]:q} {params.name:q}"
